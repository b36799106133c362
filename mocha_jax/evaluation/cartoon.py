"""What is seen in the frames of a Cartoon Talkers clip, without its truth.

A reading sees frames and where to look (shot, side, between which cuts), never
the caption or what was drawn. The mouth is the area of its colour,

  opening = sum over pixels of soft(magenta) / (MOUTH_AREA unit^2)

and the rest is what fits best among drawn characters (`templates.py`).
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.toy import palette
from mocha_jax.evaluation import templates
from mocha_jax.evaluation.templates import Stage

# Area of a wide open mouth's interior, in squared head units; see toy.mouth.
MOUTH_AREA = math.pi / 4 * (2 * palette.MOUTH_HALF_WIDTH) * palette.MOUTH_HEIGHT

# R + B - 2 G is 296 for the mouth, 7 to 20 for skins, and 0 for teeth. Below
# the floor, a share of 296, lie skins, blush and the colour noise of a codec.
_FLOOR = 0.20
_MOUTH: templates.Box = (0.02, 1.10, -0.56, 0.56)
_CHEEKS: templates.Box = (0.04, 0.26, -0.42, 0.42)
_CROWN: templates.Box = (-1.05, -0.93, -0.28, 0.28)
_COLLAR: templates.Box = (1.20, 1.55, -0.48, 0.48)
_CHEST: templates.Box = (1.24, 2.60, -1.0, 1.0)

# Of these many pictures, evenly spaced, the slow comparisons are made.
_STILLS = 12
# A nod or a shake moves the head by 0.09 head units and more (deviation from a
# straight path, root mean square), holding still by 0.03.
_GESTURE = 0.06


@dataclasses.dataclass(frozen=True)
class Place:
  """Where to look: frames start..stop - 1, a key of SHOTS and of SIDES."""

  shot: str
  side: str
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Reading:
  """What is seen in a place; the mouth's opening for each of its frames."""

  mouth: Float[np.ndarray, "F"]
  skin: str
  hair: str
  shirt: str
  emotion: str
  action: str


def read(
  frames: UInt8[np.ndarray, "F H W 3"],
  place: Place,
  *,
  actions: tuple[str, ...],
) -> Reading:
  """Read one character's mouth, looks, feeling and which of `actions` it does.

  Deterministic. Raises ValueError for a place outside the clip.
  """
  if not 0 <= place.start < place.stop <= len(frames):
    raise ValueError(f"{place} is not within a clip of {len(frames)} frames")
  stage = Stage(place.shot, place.side, frames.shape[1], frames.shape[2])
  seen = frames[place.start : place.stop].astype(np.float32)
  skin, hair, style = _likeness(seen, stage)
  look = _Look(skin=skin, hair=hair, style=style)
  shifts = _track(seen, stage, look, _unmoved(stage))
  portrait = np.median(templates.shifted(seen, shifts), axis=0)
  look = _feeling(portrait, stage, look)
  shifts = _track(seen, stage, look, stage.within(templates.HEAD))
  steady = templates.shifted(seen, shifts)
  portrait = np.median(steady, axis=0)
  chest = stage.within(_CHEST) * (1 - stage.within(_COLLAR))
  look = look.with_(
    skin=_nearest(portrait, stage.within(_CHEEKS), palette.SKINS),
    hair=_nearest(portrait, stage.within(_CROWN), palette.HAIRS),
    shirt=_nearest(portrait, chest, palette.SHIRTS),
  )
  return Reading(
    mouth=_mouth(steady, stage),
    skin=look.skin,
    hair=look.hair,
    shirt=look.shirt,
    emotion=look.emotion,
    action=_action(steady, stage, look, shifts, actions),
  )


@dataclasses.dataclass(frozen=True)
class _Look:
  """The looks that a template needs, with arbitrary ones until measured."""

  gender: str = "man"
  skin: str = "tan"
  hair: str = "brown"
  style: str = "short"
  eyes: str = "amber"
  shirt: str = "white"
  emotion: str = "neutral"
  action: str = "rest"

  def with_(self, **changes: str) -> "_Look":
    return dataclasses.replace(self, **changes)

  def draw(self, stage: Stage, swing: float = 0.0) -> templates.Template:
    return templates.character(stage, dataclasses.astuple(self), swing)


def _stills(seen: Float[np.ndarray, "n H W 3"]) -> Int[np.ndarray, "k"]:
  count = min(_STILLS, len(seen))
  return np.linspace(0, len(seen) - 1, count).round().astype(int)


def _reach(stage: Stage) -> int:
  return max(1, round(templates.REACH * stage.head[2]))


def _unmoved(stage: Stage) -> Float[np.ndarray, "H W"]:
  """Return 1 on what no emotion moves: the head without mouth and brows."""
  brows = stage.within(templates.BROWS)
  return stage.within(templates.HEAD) * (1 - brows)


def _likeness(
  seen: Float[np.ndarray, "n H W 3"], stage: Stage
) -> tuple[str, str, str]:
  """Return skin, hair and style of the drawing that fits the mean picture."""
  mean = np.median(seen[_stills(seen)], axis=0)
  skin = _nearest(mean, stage.within(_CHEEKS), palette.SKINS)
  region = _unmoved(stage)
  search = templates.Search(mean[None], reach=_reach(stage) // 2)

  def error(hair: str, style: str) -> float:
    template = _Look(skin=skin, hair=hair, style=style).draw(stage)
    return search.errors(template.colour, template.solid * region).min()

  pairs = itertools.product(palette.HAIRS, palette.STYLES)
  hair, style = min(pairs, key=lambda pair: error(*pair))
  return skin, hair, style


def _track(
  seen: Float[np.ndarray, "n H W 3"],
  stage: Stage,
  look: _Look,
  region: Float[np.ndarray, "H W"],
) -> Int[np.ndarray, "n 2"]:
  """Return how far down and right the head is from its place, per frame."""
  template = look.draw(stage)
  search = templates.Search(seen, reach=_reach(stage))
  errors = search.errors(template.colour, template.solid * region)
  return templates.best_shift(errors)


def _nearest(
  picture: Float[np.ndarray, "H W 3"],
  region: Float[np.ndarray, "H W"],
  names: Mapping[str, palette.Colour],
) -> str:
  """Return the colour that most pixels of a region are nearest to."""
  pixels = picture[region > 0]
  colours = np.array(list(names.values()), np.float32)
  distance = ((pixels[:, None] - colours) ** 2).sum(-1)
  votes = np.bincount(distance.argmin(-1), minlength=len(colours))
  return list(names)[int(votes.argmax())]


def _feeling(
  portrait: Float[np.ndarray, "H W 3"], stage: Stage, look: _Look
) -> _Look:
  """Choose the emotion (with gender and eyes) whose brows and eyes fit."""
  region = stage.within(templates.HEAD)
  reach = max(1, round(0.25 * stage.head[2]))

  search = templates.Search(portrait[None], reach=reach)

  def error(candidate: _Look) -> float:
    template = candidate.draw(stage)
    return search.errors(template.colour, template.solid * region).min()

  candidates = [
    look.with_(emotion=emotion, gender=gender, eyes=eyes)
    for emotion, gender, eyes in itertools.product(
      palette.EMOTIONS, palette.GENDERS, palette.EYES
    )
  ]
  return min(candidates, key=error)


def _mouth(
  steady: Float[np.ndarray, "n H W 3"], stage: Stage
) -> Float[np.ndarray, "n"]:
  red, green, blue = np.moveaxis(steady, -1, 0)
  magenta = (red + blue - 2 * green) / 296
  soft = np.clip((magenta - _FLOOR) / (1 - _FLOOR), 0, 1)
  area = (soft * stage.within(_MOUTH)).sum((1, 2))
  return (area / (MOUTH_AREA * stage.head[2] ** 2)).astype(np.float32)


def _action(
  steady: Float[np.ndarray, "n H W 3"],
  stage: Stage,
  look: _Look,
  shifts: Int[np.ndarray, "n 2"],
  actions: tuple[str, ...],
) -> str:
  """Choose the arm's pose by drawings, the head's gestures by its path."""
  picked = _stills(steady)
  ground = _ground(steady[picked], stage, look)
  poses = [a for a in actions if a not in ("nod", "shake")]
  rest = look.with_(action="rest").draw(stage)
  drawings = {
    (pose, swing): look.with_(action=pose).draw(stage, swing)
    for pose in poses
    for swing in ((-1.0, 0.0, 1.0) if pose in ("wave", "dance") else (0.0,))
  }
  # Where some pose differs from the arm at rest.
  differing = sum(
    np.abs(d.over(ground) - rest.over(ground)).mean(-1) > 12
    for d in drawings.values()
  )
  region = (np.asarray(differing) > 0).astype(np.float32)

  search = templates.Search(steady[picked], reach=2)

  def error(pose: str) -> float:
    each = [
      search.errors(drawing.over(ground), region).min((1, 2))
      for (name, _), drawing in drawings.items()
      if name == pose
    ]
    return float(np.min(each, axis=0).mean())

  best = min(poses, key=error)
  if best != "rest":
    return best
  down, across = _swing(shifts / stage.head[2])
  if max(down, across) < _GESTURE:
    return "rest"
  gesture = "nod" if down > across else "shake"
  return gesture if gesture in actions else "rest"


def _swing(path: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "2"]:
  """Return the deviation from a straight path, as a camera's move gives."""
  time = np.linspace(-1, 1, len(path))
  slope = (time @ path) / max(float(time @ time), 1e-6)
  return (path - path.mean(0) - time[:, None] * slope).std(0)


def _ground(
  stills: Float[np.ndarray, "k H W 3"], stage: Stage, look: _Look
) -> Float[np.ndarray, "H W 3"]:
  """Return the empty place that fits where nobody stands."""
  free = (look.draw(stage).cover < 0.03).astype(np.float32)
  grounds = [
    templates.backdrop(name, stage.height, stage.width)
    for name in palette.BACKDROPS
  ]

  def error(ground: np.ndarray) -> float:
    distance = np.abs(stills - ground).mean((0, -1))
    return float((distance * free).sum())

  return min(grounds, key=error)
