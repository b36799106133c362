"""Encoded records become the batches of a run, the same ones every time.

The samples of a run have one order, whatever the number of processes and of
workers: batch b is samples b B to (b + 1) B, of which each process reads the
rows that its devices hold. Where a run stands is the number of its batches,
the same for all processes; so it can go on from any batch, on other machines.
"""

import dataclasses
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
from absl import flags

from data_pipelines import encode, sources
from data_pipelines.mixture import DataConfig, Stage, count, mixture
from data_pipelines.records import Record
from data_pipelines.transforms import DropText, to_batch
from mocha_jax.batch import Batch

__all__ = ["Batches", "DataConfig", "Stage", "batches"]

# Read in threads of this process: two, as zlib and numpy let go of the lock.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
_BATCHES_PER_WORKER = 2


def batches(
  config: DataConfig,
  *,
  seed: int,
  rows: Sequence[int] | None = None,
) -> "Batches":
  """Return an endless iterator over batches, numpy arrays.

  rows: those of every batch to read; all unless given. Raises ValueError if a
  stage asks for clips that are not there.
  """
  clips = count(config)
  order = mixture(config, clips, seed=seed)
  text, masks = encode.load_null_text(sources.folder(config.root))
  order = order.seed(seed).random_map(
    DropText(text, masks, config.text_dropout)
  )
  rows = range(config.batch_size) if rows is None else rows
  pick = _Rows(order, config.batch_size, tuple(rows))
  steps = len(order) // config.batch_size
  samples = grain.MapDataset.range(steps * len(rows)).map(pick)
  return Batches(samples, len(rows), config, clips, seed)


class Batches(Iterator[Batch]):
  """Iterates over batches; its state is the number of those it gave.

  clips: how many there are of each kind.
  """

  def __init__(
    self,
    samples: grain.MapDataset[Record],
    rows: int,
    config: DataConfig,
    clips: Mapping[str, int],
    seed: int,
  ):
    self.clips = clips
    self._samples = samples
    self._dataset = samples.batch(rows, batch_fn=to_batch)
    self._workers = config.workers
    self._identity = {"seed": seed, "batch_size": config.batch_size}
    self._given = 0
    self._iterator = None
    self._stop_reading = None

  def __next__(self) -> Batch:
    if self._iterator is None:
      self._iterator = iter(self._ahead())
      # At exit too: else the workers' shared memory would stay.
      self._stop_reading = weakref.finalize(self, self._iterator.close)
    batch = next(self._iterator)
    self._given += 1
    return batch

  def example(self) -> Batch:
    """Return one clip, as a batch by itself, without taking it."""
    record = self._samples[0]
    assert record is not None  # Nothing filters.
    return to_batch([record])

  def get_state(self) -> dict[str, Any]:
    """Return what `set_state` needs to go on from here, as JSON can hold.

    It is the same whatever rows are read.
    """
    return {"batches": self._given} | self._identity

  def set_state(self, state: dict[str, Any]) -> None:
    """Go on from a state, of any rows and number of workers.

    Raises ValueError if it comes from another seed or batch size.
    """
    for key, here in self._identity.items():
      if state[key] != here:
        raise ValueError(
          f"the state is of {key}={state[key]}, but these batches are of"
          f" {key}={here}"
        )
    self._given = state["batches"]
    if self._stop_reading is not None:
      self._stop_reading()
    self._iterator = None

  def _ahead(self) -> grain.IterDataset[Batch]:
    rest = self._dataset[self._given :]
    if not self._workers:
      return rest.to_iter_dataset(_READ)
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain's workers are handed absl's flags.
    options = grain.MultiprocessingOptions(
      num_workers=self._workers, per_worker_buffer_size=_BATCHES_PER_WORKER
    )
    return rest.to_iter_dataset(_READ).mp_prefetch(options)


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Finds the samples of some rows of every batch in the order of all."""

  order: grain.MapDataset[Record]
  batch_size: int
  rows: tuple[int, ...]

  def __call__(self, index: int) -> Record:
    batch, place = divmod(index, len(self.rows))
    record = self.order[batch * self.batch_size + self.rows[place]]
    assert record is not None  # Nothing filters.
    return record
