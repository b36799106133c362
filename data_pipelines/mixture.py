"""In which order a run sees its clips: a curriculum of stages, each a mixture.

A stage mixes the kinds of clips by weight, in a fixed rhythm: after n samples,
a kind of weight w has had w n of them, give or take one. The clips of a kind
come in a new random order every epoch. The seed settles it all.
"""

import dataclasses
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
  config: DataConfig, *, seed: int
) -> grain.MapDataset[records.Record]:
  """Return all the samples of a run, in their order."""
  _check_kinds(config)
  stages = []
  for number, stage in enumerate(config.stages):
    is_last = number == len(config.stages) - 1
    samples = _ENDLESS if is_last else stage.steps * config.batch_size
    stages.append(_stage(config, number, seed)[:samples])
  return grain.MapDataset.concatenate(stages)


def _stage(
  config: DataConfig, number: int, seed: int
) -> grain.MapDataset[records.Record]:
  weights = {k: w for k, w in config.stages[number].weights.items() if w}
  kinds = [
    sources.training_source(config.root, kind)
    .shuffle(seed=_derived(seed, number, kind))
    .repeat()
    for kind in weights
  ]
  return grain.MapDataset.mix(kinds, list(weights.values()))


def _check_kinds(config: DataConfig) -> None:
  folder = sources.folder(config.root)
  counts = records.splits(folder)
  for number, stage in enumerate(config.stages):
    for kind, weight in stage.weights.items():
      split = sources.TRAIN + kind
      if weight and not counts.get(split, 0):
        known = [s.removeprefix(sources.TRAIN) for s in counts if counts[s]]
        raise ValueError(
          f"config.data.stages[{number}].weights.{kind} = {weight}, but there"
          f" are no clips {split} in {folder}; it has"
          f" {', '.join(k for k in known if sources.TRAIN + k in counts)}"
        )


def _derived(seed: int, stage: int, kind: str) -> int:
  """Give every kind in every stage an order of its own."""
  words = [seed, stage, zlib.crc32(kind.encode())]
  return int(np.random.SeedSequence(words).generate_state(1)[0])
