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
# What is opened where a whole pipeline of diffusers is named.
_COMPONENTS = {"codec.weights": "vae"}


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

  Another path is accepted if what lies there is the same, or if records do
  not say what it was; and the path that they name if nothing lies there any
  more. Raises ValueError, naming all keys that differ.
  """
  there = records.metadata(encoded)
  before = there.get(DIGESTS, {})
  differing = _difference(there, wanted)
  for key, path in _paths(wanted).items():
    old, _ = differing.get(key, (path, path))
    if not is_path(key, old):
      continue
    digest = _digest(key, path)
    if path and path != old and not digest:
      raise ValueError(
        f"config.{key} = {path!r}: nothing to encode with is there; {encoded}"
        f" was made with {old!r}"
      )
    if digest in (None, before.get(key, digest)):
      differing.pop(key, None)
    else:
      differing[key] = old, path
  _refuse(encoded, differing)


def digests(sections: Mapping[str, Any]) -> dict[str, str]:
  """Return the SHA-256 of each file that a config names, by the key's name."""
  found = {key: _digest(key, path) for key, path in _paths(sections).items()}
  return {key: of for key, of in found.items() if of}


def _paths(sections: Mapping[str, Any]) -> dict[str, str]:
  """Return the paths of files in a config, by the key's name."""
  named = difference(ConfigDict(), ConfigDict(dict(sections)))
  return {key: path for key, (_, path) in named.items() if is_path(key, path)}


def _digest(key: str, path: str) -> str | None:
  """Return the SHA-256 of the files at a key's path; None: there are none."""
  where = pathlib.Path(path)
  if key in _COMPONENTS and (where / "model_index.json").is_file():
    where /= _COMPONENTS[key]
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
    f"{key} = {old!r}, "
    + ("where other files lie now" if old == new else f"now it is {new!r}")
    for key, (old, new) in differing.items()
  )
  raise ValueError(
    f"{encoded} was made with {said}: give back what it was, or encode anew,"
    " by `mocha data encode --overwrite` or into another config.data.root"
  )
