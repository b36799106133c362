"""Who is seen, where, doing what: the plan of a sample before it is made.

A sample is a sequence of takes, one per clip, with a cut between two of them.
One combination in five of skin, hair and shirt is kept out of training, such
that every two of the three are still seen together. Two people in one picture
are numbered, and so told of, from left to right.
"""

import dataclasses
import itertools
import random

from data_pipelines.toy import palette
from data_pipelines.toy.face import Look

SPEECH_KINDS = (
  "close_up",
  "medium_close_up",
  "medium",
  "two_shot",
  "dialogue",
  "dialogue_aba",
)
KINDS = ("text_only", *SPEECH_KINDS)

# Cuts fall on multiples of this many frames (after frame 0, where a clip has
# 1 + 4k), so that no latent frame holds two takes.
CUT_GRID = 4

_SINGLE_SHOTS = ("close_up", "medium_close_up", "medium")
# The share of samples without cut whose camera moves, and of captions without
# tags.
_MOVING, _UNTAGGED = 0.35, 0.3


@dataclasses.dataclass(frozen=True)
class Take:
  """One clip of a sample: frames start to end, who is where, who speaks.

  cast pairs a person's index with a side of the picture; speaker is an index,
  or -1 where nobody speaks.
  """

  start: int
  end: int
  shot: str
  cast: tuple[tuple[int, str], ...]
  speaker: int


@dataclasses.dataclass(frozen=True)
class Scene:
  """The plan of a sample."""

  kind: str
  people: tuple[Look, ...]
  takes: tuple[Take, ...]
  backdrop: str
  camera: str
  tags: bool

  @property
  def cuts(self) -> tuple[int, ...]:
    """Return the first frame after each cut."""
    return tuple(take.start for take in self.takes[1:])


def sample(
  kind: str, rng: random.Random, *, held_out: bool, frames: int
) -> Scene:
  """Draw the plan of a sample of `frames` frames.

  held_out picks whose looks: those that training has, or those it lacks.
  Raises ValueError for an unknown kind or too few frames for its cuts.
  """
  if kind not in KINDS:
    raise ValueError(f"{kind=} must be one of {', '.join(KINDS)}")
  takes = _takes(kind, rng, frames)
  actions = palette.SILENT_ACTIONS if kind == "text_only" else palette.ACTIONS
  people = _people(rng, _persons(takes), held_out=held_out, actions=actions)
  moving = len(takes) == 1 and rng.random() < _MOVING
  return Scene(
    kind=kind,
    people=people,
    takes=takes,
    backdrop=rng.choice(palette.BACKDROPS),
    camera=rng.choice(palette.CAMERAS[1:]) if moving else palette.CAMERAS[0],
    tags=rng.random() >= _UNTAGGED,
  )


def is_held_out(skin: str, hair: str, shirt: str) -> bool:
  """Return whether training never shows this combination."""
  code = (
    list(palette.SKINS).index(skin)
    + 2 * list(palette.HAIRS).index(hair)
    + list(palette.SHIRTS).index(shirt)
  )
  return code % 5 == 0


def _persons(takes: tuple[Take, ...]) -> int:
  return 1 + max(person for take in takes for person, _ in take.cast)


def _people(
  rng: random.Random, count: int, *, held_out: bool, actions: tuple[str, ...]
) -> tuple[Look, ...]:
  """Draw people no two of whom share hair or shirt."""
  people: list[Look] = []
  while len(people) < count:
    look = Look(
      gender=rng.choice(palette.GENDERS),
      skin=rng.choice(list(palette.SKINS)),
      hair=rng.choice(list(palette.HAIRS)),
      style=rng.choice(palette.STYLES),
      eyes=rng.choice(list(palette.EYES)),
      shirt=rng.choice(list(palette.SHIRTS)),
      emotion=rng.choice(palette.EMOTIONS),
      action=rng.choice(actions),
    )
    alike = any(p.hair == look.hair or p.shirt == look.shirt for p in people)
    if not alike and held_out == is_held_out(look.skin, look.hair, look.shirt):
      people.append(look)
  return tuple(people)


def _takes(kind: str, rng: random.Random, frames: int) -> tuple[Take, ...]:
  if kind == "text_only":
    return _silent_takes(rng, frames)
  if kind == "two_shot":
    cast = ((0, "left"), (1, "right"))
    return (Take(0, frames, kind, cast, rng.randrange(2)),)
  if kind in ("dialogue", "dialogue_aba"):
    persons = (0, 1) if kind == "dialogue" else (0, 1, 0)
    shot = rng.choice(_SINGLE_SHOTS[:2])
    spans = _spans(rng, frames, len(persons))
    return tuple(
      Take(*span, shot, ((person, "centre"),), person)
      for span, person in zip(spans, persons, strict=True)
    )
  return (Take(0, frames, kind, ((0, "centre"),), 0),)


def _silent_takes(rng: random.Random, frames: int) -> tuple[Take, ...]:
  """One to three takes of one silent person, no two in a row alike."""
  count = rng.choices((1, 2, 3), weights=(8, 1, 1))[0]
  if frames < 3 * CUT_GRID:
    count = 1
  shots = [rng.choice(_SINGLE_SHOTS)]
  while len(shots) < count:
    others = [shot for shot in _SINGLE_SHOTS if shot != shots[-1]]
    shots.append(rng.choice(others))
  return tuple(
    Take(*span, shot, ((0, "centre"),), -1)
    for span, shot in zip(_spans(rng, frames, count), shots, strict=True)
  )


def _spans(
  rng: random.Random, frames: int, count: int
) -> list[tuple[int, int]]:
  """Cut frames into spans that are equal but for a step or so."""
  first = frames % CUT_GRID
  steps = frames // CUT_GRID
  if steps < count:
    raise ValueError(
      f"{frames} frames are too few for {count} clips: {CUT_GRID * count} at"
      " least"
    )
  cuts = []
  for k in range(1, count):
    spare = max(0, steps // (3 * count) - 1)
    step = round(steps * k / count) + rng.randint(-spare, spare)
    cuts.append(first + CUT_GRID * step)
  edges = [0, *cuts, frames]
  return list(itertools.pairwise(edges))
