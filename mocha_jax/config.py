"""How experiments are found, loaded, written down and compared."""

import ast
import importlib
import importlib.util
import json
import pathlib
import pkgutil
import types
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mocha_jax.sections import nearest as nearest
from mocha_jax.sections import section as section


def names() -> list[str]:
  """List the experiments, in the order of the alphabet."""
  return sorted(
    module.name
    for module in pkgutil.iter_modules(_experiments_path())
    if not module.name.startswith("_")
  )


def summary(name: str) -> str:
  """Read the first line of an experiment's docstring without running it."""
  spec = importlib.util.find_spec(f"experiments.{name}")
  assert spec is not None and spec.origin is not None
  source = pathlib.Path(spec.origin).read_text(encoding="utf-8")
  docstring = ast.get_docstring(ast.parse(source)) or ""
  return docstring.partition("\n")[0]


def load(name_or_path: str) -> ConfigDict:
  """Load an experiment by its name, or by the path of its file.

  That is .py, or the .json of a run or an export. The config is locked: keys
  can be changed, but none can be added. Raises ValueError for an unknown name,
  FileNotFoundError for a missing file.
  """
  if name_or_path.endswith(".json"):
    return _read(pathlib.Path(name_or_path))
  if name_or_path.endswith(".py"):
    module = _module_at(pathlib.Path(name_or_path))
  elif name_or_path in names():
    module = importlib.import_module(f"experiments.{name_or_path}")
  else:
    raise ValueError(
      f'unknown experiment "{name_or_path}"{nearest(name_or_path, names())}'
    )
  if not hasattr(module, "get_config"):
    raise ValueError(f"{name_or_path} has no get_config()")
  config = module.get_config()
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f"get_config() of {name_or_path} returned a {type(config).__name__}:"
      " expected a ConfigDict"
    )
  return config.lock()


def to_json(config: ConfigDict) -> str:
  """Write a config as JSON that `from_json` reads back to an equal config."""
  return json.dumps(_plain(config), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> ConfigDict:
  """Read a config back; its lists become the tuples that they were."""
  return ConfigDict(_tuples(json.loads(text))).lock()


def completed(config: ConfigDict) -> ConfigDict:
  """Add the keys that configs from before there was a choice lack.

  Their values are what there was then.
  """
  given = config.to_dict()
  given["model"].setdefault("name", "movie_gen")
  given["model"].setdefault("lora", dict(rank=0, alpha=1.0, targets=()))
  given.setdefault("trainable", dict(preset="full"))
  return ConfigDict(given).lock()


# Keys of codecs and encoders: where files lie, and how much is computed at a
# time, on which the result does not depend.
_PATHS = ("weights", "tokenizer")
PORTIONS = ("batch_size", "chunk", "tile")
_BYTES = "bytes"  # A tokenizer that is no file.


def is_path(key: str, *values: Any) -> bool:
  """Return whether a dotted key of a codec or an encoder, with values, is."""
  return key.rpartition(".")[2] in _PATHS and all(
    isinstance(value, str) and value != _BYTES for value in values
  )


class _Absent:
  def __repr__(self) -> str:
    return "(absent)"


ABSENT = _Absent()


def difference(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[Any, Any]]:
  """Map each dotted key whose values differ to the pair of them.

  A key that only one config has is paired with ABSENT; a list equals the
  tuple of the same values.
  """
  left, right = _flat(_plain(a), ""), _flat(_plain(b), "")
  pairs = {
    key: (left.get(key, ABSENT), right.get(key, ABSENT))
    for key in (*left, *(key for key in right if key not in left))
  }
  return {key: (x, y) for key, (x, y) in pairs.items() if not _same(x, y)}


def _experiments_path() -> Iterable[str]:
  spec = importlib.util.find_spec("experiments")
  assert spec is not None and spec.submodule_search_locations is not None
  return spec.submodule_search_locations


def _read(path: pathlib.Path) -> ConfigDict:
  if not path.is_file():
    raise FileNotFoundError(f"no experiment file {path}")
  try:
    return completed(from_json(path.read_text()))
  except ValueError as error:
    raise ValueError(f"{path} is no config: {error}") from error


def _module_at(path: pathlib.Path) -> types.ModuleType:
  if not path.is_file():
    raise FileNotFoundError(f"no experiment file {path}")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _plain(value: Any) -> Any:
  if isinstance(value, (ConfigDict, Mapping)):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  return value


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _flat(value: Any, where: str) -> dict[str, Any]:
  if isinstance(value, dict) and value:
    items = [(f"{where}.{k}" if where else k, v) for k, v in value.items()]
  elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
    items = [(f"{where}[{i}]", v) for i, v in enumerate(value)]
  else:
    return {where: tuple(value) if isinstance(value, list) else value}
  return {k: v for key, inner in items for k, v in _flat(inner, key).items()}


def _same(x: Any, y: Any) -> bool:
  return x == y and isinstance(x, bool) == isinstance(y, bool)
