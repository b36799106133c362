"""Making the data set: plans, speech and pictures become raw records.

Record i of a split depends on nothing but seed, split, kind, i and the clip's
format, so that any number of processes make the same data set.
"""

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines import records
from data_pipelines.toy import captions, motion, scene, soundtrack, visemes
from data_pipelines.toy.draw import Actor, Picture, draw
from data_pipelines.toy.scene import Scene, Take
from data_pipelines.toy.soundtrack import Line
from data_pipelines.toy.visemes import Track
from mocha_jax.media import ClipFormat
from mocha_jax.sections import section

if TYPE_CHECKING:
  from ml_collections import ConfigDict

TRAIN, TEST, OTHER_LANGUAGE = "train", "test", "test_other_language"

_CHUNK = 8  # Records that a process makes at a time.


@dataclasses.dataclass(frozen=True)
class ToyConfig:
  """How many clips of each kind each split gets (section `toy`)."""

  seed: int
  train: Mapping[str, int]
  test: Mapping[str, int]
  test_other_language: Mapping[str, int]

  def __post_init__(self):
    for name in (TRAIN, TEST, OTHER_LANGUAGE):
      for kind, count in getattr(self, name).items():
        known = _kinds(name)
        if kind not in known:
          raise ValueError(
            f"{name}.{kind}: no such kind; there are {', '.join(known)}"
          )
        if count < 0:
          raise ValueError(f"{name}.{kind}={count} must not be negative")


def build(config: "ConfigDict") -> pathlib.Path:
  """Make the data set of an experiment in <data.root>/raw; return that.

  Records made from the same sections `toy` and `clip` are left as they are.
  Raises ValueError where other records are in the way.
  """
  given = config.to_dict()
  toy = section(ToyConfig, given["toy"], "toy")
  clip = section(ClipFormat, given["clip"], "clip")
  directory = pathlib.Path(given["data"]["root"]) / records.RAW
  made = make(toy, clip, directory)
  print(f"wrote {directory}" if made else f"{directory} is up to date")
  return directory


def make(
  toy: ToyConfig,
  clip: ClipFormat,
  directory: str | os.PathLike[str],
  *,
  processes: int | None = None,
) -> bool:
  """Write the data set, with as many processes as there are processors.

  Returns whether it had to: records of the same sections may be there.
  """
  made_from = {
    "toy": dataclasses.asdict(toy),
    "clip": dataclasses.asdict(clip),
  }
  if records.exists(directory):
    if records.metadata(directory) == made_from:
      return False
    raise ValueError(
      f"{directory} holds records that another config made; remove them, or"
      " set config.data.root to another folder"
    )
  processes = processes or len(os.sched_getaffinity(0))
  # Fork would copy threads of JAX and TensorStore in an unknown state.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
    splits = {
      split: _pooled(pool, _tasks(toy, split, kinds), clip)
      for split, kinds in _splits(toy).items()
    }
    records.write(
      directory, splits, kind=records.RAW, metadata=made_from, shards=None
    )
  return True


def examples(
  split: str, kind: str, count: int, *, seed: int, clip: ClipFormat
) -> Iterator[records.Record]:
  """Yield the first `count` raw records of one kind of a split.

  The split is TRAIN, TEST or OTHER_LANGUAGE.
  """
  for index in range(count):
    yield example(Task(seed, split, kind, index), clip)


@dataclasses.dataclass(frozen=True)
class Task:
  """All that a record depends on, beside the clip's format."""

  seed: int
  split: str
  kind: str
  index: int

  def __post_init__(self):
    if self.kind not in _kinds(self.split):
      raise ValueError(
        f"split {self.split!r} has no kind {self.kind!r}; it has "
        f"{', '.join(_kinds(self.split))}"
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


def _kinds(split: str) -> tuple[str, ...]:
  if split == TRAIN:
    return records.KINDS
  return scene.KINDS if split == TEST else scene.SPEECH_KINDS


def _people(plan: Scene) -> int:
  return len(plan.people)


def _splits(toy: ToyConfig) -> dict[str, dict[str, int]]:
  """Return the splits that get a record at all, and their kinds."""
  splits = {f"{TRAIN}_{kind}": {kind: n} for kind, n in toy.train.items()}
  splits[TEST] = dict(toy.test)
  splits[OTHER_LANGUAGE] = dict(toy.test_other_language)
  return {s: kinds for s, kinds in splits.items() if sum(kinds.values())}


def _tasks(toy: ToyConfig, split: str, kinds: Mapping[str, int]) -> list[Task]:
  name = TRAIN if split.startswith(TRAIN) else split
  return [
    Task(toy.seed, name, kind, index)
    for kind, count in kinds.items()
    for index in range(count)
  ]


def _pooled(
  pool: concurrent.futures.Executor, tasks: list[Task], clip: ClipFormat
) -> Iterable[records.Record]:
  """Make records in the pool, in order, a few ahead of who reads them."""
  work = functools.partial(_examples, clip=clip)
  ahead: list[concurrent.futures.Future] = []
  for start in range(0, len(tasks), _CHUNK):
    chunk = tasks[start : start + _CHUNK]
    ahead.append(pool.submit(work, chunk))
    if len(ahead) > 8:
      yield from ahead.pop(0).result()
  for future in ahead:
    yield from future.result()


def _examples(tasks: list[Task], clip: ClipFormat) -> list[records.Record]:
  return [example(task, clip) for task in tasks]


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
