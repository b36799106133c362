"""What happens to an encoded record on its way into a batch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from data_pipelines.records import Record
from mocha_jax.batch import Batch, Condition


@dataclasses.dataclass(frozen=True)
class DropText(grain.transforms.RandomMap):
  """Puts the empty prompt in place of a record's with a probability."""

  text: Mapping[str, np.ndarray]
  text_mask: Mapping[str, np.ndarray]
  probability: float

  def random_map(self, element: Record, rng: np.random.Generator) -> Record:
    """Return the record, or one without its prompt."""
    if rng.random() >= self.probability:
      return element
    null = {"text": dict(self.text), "text_mask": dict(self.text_mask)}
    return element | null


def to_batch(elements: Sequence[Record]) -> Batch:
  """Stack records of one shape into a float32 batch.

  Raises ValueError naming the first record whose shape is another.
  """
  first = elements[0]
  for record in elements:
    for key in ("latents", "speech"):
      if record[key].shape != first[key].shape:
        raise ValueError(
          f"clips of one batch must have one shape: {key} of"
          f" {record['name']!r} are {list(record[key].shape)}, of"
          f" {first['name']!r} {list(first[key].shape)}"
        )
  return Batch(
    latents=_stack([r["latents"] for r in elements]),
    condition=Condition(
      speech=_stack([r["speech"] for r in elements]),
      text={
        name: _stack([r["text"][name] for r in elements])
        for name in first["text"]
      },
      text_mask={
        name: _stack([r["text_mask"][name] for r in elements])
        for name in first["text_mask"]
      },
    ),
  )


def _stack(arrays: Sequence[np.ndarray]) -> Any:
  stacked = np.stack(arrays)
  is_half = stacked.dtype == np.float16
  return stacked.astype(np.float32) if is_half else stacked
