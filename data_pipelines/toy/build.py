"""Making the data set: its splits, and the processes that make their records.

A record depends on its own task alone, so that any number of processes make
the same data set.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from data_pipelines import progress, records
from data_pipelines.toy.tasks import (
  OTHER_LANGUAGE,
  TEST,
  TRAIN,
  Task,
  example,
  kinds_of,
)
from mocha_jax.media import ClipFormat
from mocha_jax.sections import section

if TYPE_CHECKING:
  from ml_collections import ConfigDict

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
        known = kinds_of(name)
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
      split: _shown(pool, split, _tasks(toy, split, kinds), clip)
      for split, kinds in _splits(toy).items()
    }
    records.write(
      directory, splits, kind=records.RAW, metadata=made_from, shards=None
    )
  return True


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


def _shown(
  pool: concurrent.futures.Executor,
  split: str,
  tasks: list[Task],
  clip: ClipFormat,
) -> Iterable[records.Record]:
  made = _pooled(pool, tasks, clip)
  return progress.track(made, f"make {split}", total=len(tasks))


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
