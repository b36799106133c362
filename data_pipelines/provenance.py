"""What encoded records were made with, and whether a config says the same."""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from data_pipelines import records
from mocha_jax.config import PORTIONS, difference, is_path

SECTIONS = ("clip", "codec", "speech_encoder", "text_encoder")
DIGESTS = "digests"

# Of files in a folder, the first kind of which there are any.
_KINDS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")


def check_trainable(
  encoded: str | os.PathLike[str], config: Mapping[str, Any]
) -> None:
  """Refuse encoded records that are not what a run of this config reads.

  Where files lay, types of computation and sections that the records know
  nothing of do not count. Raises ValueError, naming all keys that differ.
  """
  there = records.metadata(encoded)
  wanted = {name: config[name] for name in SECTIONS if name in there}
  differing = {
    key: pair
    for key, pair in _difference(there, wanted).items()
    if not key.endswith(".dtype") and not is_path(key, *pair)
  }
  _refuse(encoded, differing)


def check_same(
  encoded: str | os.PathLike[str], wanted: Mapping[str, Any]
) -> None:
  """Refuse encoded records that would not come out the same again.

  Another path is accepted if the file is the same, or if that cannot be told:
  a file is missing, or records do not say what it was. Raises ValueError,
  naming all keys that differ.
  """
  there = records.metadata(encoded)
  before = there.get(DIGESTS, {})

  def is_same(key: str, old: Any, new: Any) -> bool:
    if not is_path(key, old, new):
      return False
    return key not in before or _digest(new) in (None, before[key])

  differing = {
    key: pair
    for key, pair in _difference(there, wanted).items()
    if not is_same(key, *pair)
  }
  _refuse(encoded, differing)


def digests(sections: Mapping[str, Any]) -> dict[str, str]:
  """Return the SHA-256 of each file that a config names, by the key's name."""
  named = difference(ConfigDict(), ConfigDict(dict(sections)))
  found = {
    key: _digest(path) for key, (_, path) in named.items() if is_path(key, path)
  }
  return {key: of for key, of in found.items() if of}


def _digest(path: str) -> str | None:
  """Return the SHA-256 of the weights at a path; None: there are none."""
  where = pathlib.Path(path)
  if where.name.endswith(".index.json"):
    where = where.parent
  files = [where]
  if not where.is_file():
    found = (sorted(where.glob(f"*{kind}")) for kind in _KINDS)
    files = next(filter(None, found), [])
  if not path or not files:
    return None
  whole = hashlib.sha256()
  for file in files:
    with file.open("rb") as opened:
      whole.update(hashlib.file_digest(opened, "sha256").digest())
  return whole.hexdigest()


def _difference(
  there: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
  """Map what differs, and may change the result, to the pair of values."""
  before = {name: there[name] for name in wanted if name in there}
  differing = difference(ConfigDict(before), ConfigDict(dict(wanted)))
  return {
    key: pair
    for key, pair in differing.items()
    if key and key.rpartition(".")[2] not in PORTIONS
  }


def _refuse(
  encoded: str | os.PathLike[str], differing: Mapping[str, tuple[Any, Any]]
) -> None:
  """Raise ValueError if there are any."""
  if not differing:
    return
  said = ", ".join(
    f"{key} = {old!r}, now it is {new!r}"
    for key, (old, new) in differing.items()
  )
  raise ValueError(
    f"{encoded} was made with {said}: give back what it was, or encode anew,"
    " by `mocha data encode --overwrite` or into another config.data.root"
  )
