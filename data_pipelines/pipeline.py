"""Encoded records become the batches of a run, the same ones every time.

The samples of a run have one order, whatever the number of hosts and of worker
processes: batch b is samples b B to (b + 1) B, of which each host reads its
contiguous share. So a run can go on from any batch, also on other machines.
"""

import dataclasses
import weakref
from collections.abc import Iterator
from typing import Any

import grain
from absl import flags

from data_pipelines import encode, sources
from data_pipelines.mixture import DataConfig, Stage, mixture
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
  process_index: int = 0,
  process_count: int = 1,
) -> "Batches":
  """Return an endless iterator over this host's share of the batches.

  Each is a Batch of numpy arrays of batch_size / process_count clips. Raises
  ValueError if the hosts cannot share a batch evenly, or if a stage asks for
  clips that are not there.
  """
  if config.batch_size % process_count:
    raise ValueError(
      f"batch_size={config.batch_size} must be a multiple of"
      f" {process_count=}: every host reads as many clips"
    )
  order = mixture(config, seed=seed)
  text, masks = encode.load_null_text(sources.folder(config.root))
  order = order.seed(seed).random_map(
    DropText(text, masks, config.text_dropout)
  )
  share = config.batch_size // process_count
  pick = _Share(order, config.batch_size, share, process_index * share)
  count = len(order) // config.batch_size
  local = grain.MapDataset.range(count * share).map(pick)
  dataset = local.batch(share, batch_fn=to_batch)
  return Batches(dataset, config, seed)


class Batches(Iterator[Batch]):
  """Iterates over batches; its state is the number of those it gave."""

  def __init__(
    self, dataset: grain.MapDataset[Batch], config: DataConfig, seed: int
  ):
    self._dataset = dataset
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

  def get_state(self) -> dict[str, Any]:
    """Return what `set_state` needs to go on from here, as JSON can hold."""
    return {"batches": self._given} | self._identity

  def set_state(self, state: dict[str, Any]) -> None:
    """Go on from a state, of any number of hosts and workers.

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
class _Share:
  """Finds the samples of one host in the order of all."""

  order: grain.MapDataset[Record]
  batch_size: int
  share: int
  offset: int

  def __call__(self, index: int) -> Record:
    batch, place = divmod(index, self.share)
    record = self.order[batch * self.batch_size + self.offset + place]
    assert record is not None  # Nothing filters.
    return record
