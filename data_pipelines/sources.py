"""Where training and testing find their encoded records."""

import os
import pathlib
from collections.abc import Iterator

from data_pipelines import records

TRAIN = "train_"


def folder(root: str | os.PathLike[str]) -> pathlib.Path:
  """Return the folder of the encoded records under a data root."""
  return pathlib.Path(root) / records.ENCODED


def training(root: str | os.PathLike[str], kind: str) -> records.Records:
  """Open the training clips of one kind, the split train_<kind>."""
  return records.read(folder(root), TRAIN + kind)


def test_clips(
  root: str | os.PathLike[str], split: str
) -> Iterator[tuple[records.Record, records.Record]]:
  """Yield each held-out clip: its encoded record, and the raw one."""
  encoded = records.read(folder(root), split)
  raw = records.read(pathlib.Path(root) / records.RAW, split)
  if len(raw) != len(encoded):
    raise ValueError(
      f"{encoded.directory} has {len(encoded)} clips in {split} and"
      f" {raw.directory} has {len(raw)}: encode them again"
    )
  for ours, truth in zip(encoded, raw, strict=True):
    if ours["name"] != truth["name"]:
      raise ValueError(
        f"clip {ours['name']!r} of {encoded.directory} stands where"
        f" {raw.directory} has {truth['name']!r}: encode them again"
      )
    yield ours, truth
