"""One record of Cartoon Talkers: its plan becomes speech, pictures and truth.

It depends on nothing but seed, split, kind, index and the clip's format.
"""

import dataclasses
import json
import random
from collections.abc import Iterator

import numpy as np

from data_pipelines import records
from data_pipelines.toy import captions, motion, scene, soundtrack, visemes
from data_pipelines.toy.draw import Actor, Picture, draw
from data_pipelines.toy.scene import Scene, Take
from data_pipelines.toy.soundtrack import Line
from data_pipelines.toy.visemes import Track
from mocha_jax.media import ClipFormat

TRAIN, TEST, OTHER_LANGUAGE = "train", "test", "test_other_language"


def kinds_of(split: str) -> tuple[str, ...]:
  """Return the kinds of clips that a split may have."""
  if split == TRAIN:
    return records.KINDS
  return scene.KINDS if split == TEST else scene.SPEECH_KINDS


@dataclasses.dataclass(frozen=True)
class Task:
  """All that a record depends on, beside the clip's format."""

  seed: int
  split: str
  kind: str
  index: int

  def __post_init__(self):
    if self.kind not in kinds_of(self.split):
      raise ValueError(
        f"split {self.split!r} has no kind {self.kind!r}; it has "
        f"{', '.join(kinds_of(self.split))}"
      )

  @property
  def held_out(self) -> bool:
    """Return whether looks, sentences and voices are those kept for tests."""
    return self.split != TRAIN

  @property
  def language(self) -> str:
    """Return what is spoken, one of soundtrack.LANGUAGES."""
    return "mandarin" if self.split == OTHER_LANGUAGE else "english"

  def rng(self, purpose: str) -> random.Random:
    """Return the random numbers of one part of the record."""
    key = (self.seed, self.split, self.kind, self.index, purpose)
    return random.Random("/".join(map(str, key)))

  def scene(self, frames: int) -> Scene:
    """Return the record's plan."""
    return scene.sample(
      self.kind, self.rng("scene"), held_out=self.held_out, frames=frames
    )


def examples(
  split: str, kind: str, count: int, *, seed: int, clip: ClipFormat
) -> Iterator[records.Record]:
  """Yield the first `count` raw records of one kind of a split.

  The split is TRAIN, TEST or OTHER_LANGUAGE.
  """
  for index in range(count):
    yield example(Task(seed, split, kind, index), clip)


def example(task: Task, clip: ClipFormat) -> records.Record:
  """Make one raw record."""
  plan = task.scene(clip.frames)
  lines = _speak(task, plan, clip)
  tracks = [_person_track(plan, lines, p, clip) for p in range(_people(plan))]
  visible = np.zeros((_people(plan), clip.frames), np.bool_)
  speaker = np.full(clip.frames, -1, np.int32)
  for take in plan.takes:
    speaker[take.start : take.end] = take.speaker
    for person, _ in take.cast:
      visible[person, take.start : take.end] = True
  sound = [line.samples for line in lines if line is not None]
  return dict(
    name=f"{task.split}-{task.kind}-{task.seed}-{task.index:06d}",
    kind=task.kind,
    prompt=captions.caption(plan),
    frames=_draw(task, plan, tracks, clip),
    speech=np.concatenate(sound) if sound else np.zeros(0, np.float32),
    mouth=np.stack([track.opening for track in tracks]),
    viseme=np.stack([track.viseme for track in tracks]),
    visible=visible,
    speaker=speaker,
    cuts=np.array(plan.cuts, np.int32),
    attributes=json.dumps(_attributes(plan, lines)),
  )


def _people(plan: Scene) -> int:
  return len(plan.people)


def _speak(task: Task, plan: Scene, clip: ClipFormat) -> list[Line | None]:
  """Return what is said in each take; None where nobody speaks."""
  rng = task.rng("speech")
  voices = soundtrack.cast_voices(
    tuple(look.gender for look in plan.people),
    rng,
    language=task.language,
    held_out=task.held_out,
  )
  lines: list[Line | None] = []
  for take in plan.takes:
    if take.speaker < 0:
      lines.append(None)
      continue
    start, end = _sample_at(take.start, clip), _sample_at(take.end, clip)
    lines.append(
      soundtrack.line(
        voices[take.speaker],
        rng,
        samples=end - start,
        sample_rate=clip.sample_rate,
        language=task.language,
        held_out=task.held_out,
      )
    )
  return lines


def _sample_at(frame: int, clip: ClipFormat) -> int:
  return round(frame * clip.sample_rate / clip.fps)


def _person_track(
  plan: Scene, lines: list[Line | None], person: int, clip: ClipFormat
) -> Track:
  """Return a person's mouth through all takes; at rest where it is silent."""
  parts = []
  for take, line in zip(plan.takes, lines, strict=True):
    frames = take.end - take.start
    if line is None or take.speaker != person:
      parts.append(visemes.at_rest(frames))
      continue
    parts.append(
      visemes.track(
        line.phonemes,
        line.samples,
        sample_rate=clip.sample_rate,
        fps=clip.fps,
        frames=frames,
      )
    )
  return visemes.join(parts)


def _draw(
  task: Task, plan: Scene, tracks: list[Track], clip: ClipFormat
) -> np.ndarray:
  rng = task.rng("motion")
  motions = [
    motion.sample(rng, frames=clip.frames, fps=clip.fps) for _ in plan.people
  ]

  def picture(take: Take, frame: int) -> Picture:
    actors = []
    for person, side in take.cast:
      look = plan.people[person]
      pose = motion.pose(
        motions[person], look.action, tracks[person], frame=frame, fps=clip.fps
      )
      actors.append(Actor(look, pose, side))
    progress = frame / max(clip.frames - 1, 1)
    camera = motion.camera(plan.camera, progress)
    return Picture(take.shot, plan.backdrop, tuple(actors), camera)

  return np.stack(
    [
      draw(picture(take, frame), clip.height, clip.width)
      for take in plan.takes
      for frame in range(take.start, take.end)
    ]
  )


def _attributes(
  plan: Scene, lines: list[Line | None]
) -> list[dict[str, object]]:
  """Return what is true of each person, as the record's JSON list has it."""
  people = []
  for person, look in enumerate(plan.people):
    spoken = [
      line
      for take, line in zip(plan.takes, lines, strict=True)
      if line is not None and take.speaker == person
    ]
    places = [
      dict(shot=take.shot, side=side, start=take.start, stop=take.end)
      for take in plan.takes
      for other, side in take.cast
      if other == person
    ]
    people.append(
      dataclasses.asdict(look)
      | dict(
        side=places[0]["side"],
        shot=places[0]["shot"],
        places=places,
        backdrop=plan.backdrop,
        camera=plan.camera,
        voice=spoken[0].voice.name if spoken else "",
        text=" ".join(line.text for line in spoken),
      )
    )
  return people
