"""In which order a run sees its clips: a curriculum of stages, each a mixture.

A stage mixes the kinds of clips by weight, in a fixed rhythm: after n samples,
a kind of weight w has had w n of them, give or take one. The clips of a kind
come in a new random order every epoch. The seed settles it all.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping

import grain
import numpy as np

from data_pipelines import records, sources

# No run sees as many samples.
_ENDLESS = 2**40


@dataclasses.dataclass(frozen=True)
class Stage:
  """How many steps a stage lasts, and the weight of each kind of clip."""

  steps: int
  weights: Mapping[str, float]

  def __post_init__(self):
    if self.steps < 1:
      raise ValueError(f"steps={self.steps} must be at least 1")
    negative = {k: w for k, w in self.weights.items() if w < 0}
    if negative:
      raise ValueError(f"weights must not be negative: {negative}")
    total = sum(self.weights.values())
    if not math.isclose(total, 1, abs_tol=1e-6):
      raise ValueError(
        f"weights must sum to 1, not {total:g}: {dict(self.weights)}"
      )


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Section `data`: where the records lie and how they are mixed.

  The last stage goes on for as long as the run.
  """

  root: str
  batch_size: int
  text_dropout: float
  workers: int
  stages: tuple[Stage, ...]

  def __post_init__(self):
    if self.batch_size < 1:
      raise ValueError(f"batch_size={self.batch_size} must be at least 1")
    if not 0 <= self.text_dropout <= 1:
      raise ValueError(f"text_dropout={self.text_dropout} must be 0..1")
    if self.workers < 0:
      raise ValueError(f"workers={self.workers} must be at least 0")
    if not self.stages:
      raise ValueError("stages must not be empty: give at least one")


def mixture(
  config: DataConfig, counts: Mapping[str, int], *, seed: int
) -> grain.MapDataset[records.Record]:
  """Return all the samples of a run, in their order; counts: see `count`."""
  read = _Read({kind: sources.training(config.root, kind) for kind in counts})
  return order(config, counts, seed=seed).map(read)


def order(
  config: DataConfig, counts: Mapping[str, int], *, seed: int
) -> grain.MapDataset[tuple[str, int]]:
  """Return which clips come when: kind, and index among `counts` of it."""
  stages = []
  for number, stage in enumerate(config.stages):
    is_last = number == len(config.stages) - 1
    samples = _ENDLESS if is_last else stage.steps * config.batch_size
    weights = {kind: w for kind, w in stage.weights.items() if w}
    kinds = [
      grain.MapDataset.range(_ENDLESS).map(
        _Shuffled(kind, counts[kind], (seed, number, zlib.crc32(kind.encode())))
      )
      for kind in weights
    ]
    mixed = grain.MapDataset.mix(kinds, list(weights.values()))
    stages.append(mixed[:samples])
  return grain.MapDataset.concatenate(stages)


@dataclasses.dataclass(frozen=True)
class _Read:
  """Reads the record at a place."""

  sources: Mapping[str, records.Records]

  def __call__(self, place: tuple[str, int]) -> records.Record:
    kind, index = place
    return self.sources[kind][index]


@dataclasses.dataclass(frozen=True)
class _Shuffled:
  """Finds the clips of a kind, in a new order every epoch.

  Grain's own shuffle takes 65,536 / count steps for one index, milliseconds
  where clips are few.
  """

  kind: str
  count: int
  seed: tuple[int, ...]

  def __call__(self, index: int) -> tuple[str, int]:
    epoch, place = divmod(index, self.count)
    return self.kind, int(_permutation(self.count, (*self.seed, epoch))[place])


@functools.lru_cache(maxsize=64)
def _permutation(count: int, seed: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(seed).permutation(count)


def count(config: DataConfig) -> dict[str, int]:
  """Return how many clips there are of each kind that has a weight.

  Raises ValueError if a stage gives weight to a kind that has no clips.
  """
  folder = sources.folder(config.root)
  there = {
    split.removeprefix(sources.TRAIN): clips
    for split, clips in records.splits(folder).items()
    if split.startswith(sources.TRAIN) and clips
  }
  for number, stage in enumerate(config.stages):
    for kind, weight in stage.weights.items():
      if weight and kind not in there:
        raise ValueError(
          f"config.data.stages[{number}].weights.{kind} = {weight}, but there"
          f" are no clips {sources.TRAIN}{kind} in {folder}; it has"
          f" {', '.join(there)}"
        )
  used = {k for stage in config.stages for k, w in stage.weights.items() if w}
  return {kind: clips for kind, clips in there.items() if kind in used}
