"""What `mocha data inspect` shows: what lies in a folder of records."""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines import records


def describe(directory: str | os.PathLike[str]) -> str:
  """Describe the records of a folder, or of its folders `raw` and `encoded`.

  Says how many records each split holds, what they were made with, and what
  the first record of each split looks like. Raises ValueError if there are no
  records.
  """
  folder = pathlib.Path(directory)
  inner = [folder / kind for kind in (records.RAW, records.ENCODED)]
  found = [path for path in (folder, *inner) if records.exists(path)]
  if not found:
    records.splits(folder)  # Says what is missing.
  return "\n\n".join("\n".join(_lines(path)) for path in found)


def _lines(folder: pathlib.Path) -> Iterator[str]:
  splits = records.splits(folder)
  total = sum(splits.values())
  yield f"{folder}: {total} {records.kind(folder)} records"
  for name, value in records.metadata(folder).items():
    yield f"  {name}: {_short(json.dumps(value, ensure_ascii=False))}"
  for split, count in splits.items():
    yield f"  {split}: {count}"
    if count:
      for key, value in records.read(folder, split)[0].items():
        yield f"    {key:10}  {_value(value)}"


def _value(value: Any) -> str:
  if isinstance(value, dict):
    return ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items())
  if isinstance(value, str):
    return _short(json.dumps(value, ensure_ascii=False))
  array = np.asarray(value)
  shape = "x".join(map(str, array.shape))
  if not array.size:
    return f"{array.dtype} [{shape}]"
  low, high = array.min().item(), array.max().item()
  if array.dtype.kind == "f":
    return f"{array.dtype} [{shape}], {low:.4g} to {high:.4g}"
  return f"{array.dtype} [{shape}], {low} to {high}"


def _short(text: str, most: int = 200) -> str:
  return text if len(text) <= most else f"{text[: most - 1]}…"
