"""How experiments are found, and how a section of one becomes a dataclass."""

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import json
import pathlib
import pkgutil
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

from ml_collections import ConfigDict

T = TypeVar("T")


def section(cls: type[T], mapping: ConfigDict | Mapping, name: str) -> T:
  """Build the frozen dataclass `cls` from the section `name` of a config.

  Integers are taken for floats, lists for tuples. Raises ValueError for a key
  that is unknown or missing, and for a value of another type than the field's
  annotation or refused by `__post_init__`; it names key, value and rule.
  """
  where = name if name.startswith("config.") else f"config.{name}"
  given = _mapping(mapping, where)
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # pyright: ignore
  hints = typing.get_type_hints(cls)
  for key in given:
    if key not in fields:
      raise ValueError(
        f"{where}.{key} = {_show(given[key])}: unknown key"
        f"{nearest(key, fields)}"
      )
  values = {}
  for key, field in fields.items():
    if key in given:
      values[key] = _checked(given[key], hints[key], f"{where}.{key}")
    elif _is_required(field):
      raise ValueError(
        f"{where}.{key} is missing: expected {_describe(hints[key])}"
      )
  try:
    return cls(**values)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error


def nearest(word: str, known: Iterable[str]) -> str:
  """Say which known word comes closest: `; nearest is "x"`."""
  words = sorted(known)
  close = difflib.get_close_matches(word, words, n=1, cutoff=0.4)
  if close:
    return f'; nearest is "{close[0]}"'
  return f"; known are {', '.join(words)}" if words else "; none is known"


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
  """Load an experiment by its name, or by the path of its .py file.

  The config is locked: keys can be changed, but none can be added. Raises
  ValueError for an unknown name, FileNotFoundError for a missing file.
  """
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


def _module_at(path: pathlib.Path) -> types.ModuleType:
  if not path.is_file():
    raise FileNotFoundError(f"no experiment file {path}")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _is_required(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is missing and field.default_factory is missing


def _mapping(value: Any, where: str) -> dict[str, Any]:
  if not isinstance(value, (ConfigDict, Mapping)):
    raise ValueError(f"{where} = {_show(value)}: expected a section of keys")
  return dict(value.items())


def _checked(value: Any, hint: Any, where: str) -> Any:
  """Return the value as its annotation wants it, or raise ValueError."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint in (Any, object):
    return value
  if dataclasses.is_dataclass(hint):
    return value if isinstance(value, hint) else section(hint, value, where)  # pyright: ignore
  if origin in (Union, types.UnionType):
    return _any_of(value, hint, where)
  if origin is Literal:
    for choice in args:
      if type(value) is type(choice) and value == choice:
        return value
    near = nearest(value, map(str, args)) if isinstance(value, str) else ""
    raise _wrong(value, hint, where, near)
  base = origin or hint
  if base is tuple and isinstance(value, (tuple, list)):
    return _tuple(value, args, hint, where)
  if base in (dict, Mapping) and isinstance(value, (ConfigDict, Mapping)):
    _, inner = args or (Any, Any)
    return {k: _checked(v, inner, f"{where}.{k}") for k, v in value.items()}
  if base is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  wrong_bool = isinstance(value, bool) and base is not bool
  if wrong_bool or not isinstance(value, base):
    raise _wrong(value, hint, where)
  return value


def _any_of(value: Any, hint: Any, where: str) -> Any:
  choices = typing.get_args(hint)
  if type(value) in choices:  # So that an int stays one in `float | int`.
    return value
  for choice in choices:
    try:
      return _checked(value, choice, where)
    except ValueError:
      continue
  inner = [c for c in choices if c is not types.NoneType]
  if len(inner) == 1 and typing.get_origin(inner[0]) is not None:
    return _checked(value, inner[0], where)  # Its error says more than ours.
  if len(inner) == 1 and dataclasses.is_dataclass(inner[0]):
    return _checked(value, inner[0], where)
  raise _wrong(value, hint, where)


def _tuple(value: Any, args: tuple, hint: Any, where: str) -> tuple:
  if not args:
    return tuple(value)
  hints = args[:1] * len(value) if args[-1] is Ellipsis else args
  if len(hints) != len(value):
    raise _wrong(value, hint, where)
  return tuple(
    _checked(v, h, f"{where}[{i}]")
    for i, (v, h) in enumerate(zip(value, hints, strict=True))
  )


def _wrong(value: Any, hint: Any, where: str, near: str = "") -> ValueError:
  return ValueError(
    f"{where} = {_show(value)}: expected {_describe(hint)}{near}"
  )


def _describe(hint: Any) -> str:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    return "one of " + ", ".join(map(_show, args))
  if origin in (Union, types.UnionType):
    return " or ".join(map(_describe, args))
  if hint is types.NoneType:
    return "None"
  if dataclasses.is_dataclass(hint):
    return "a section of keys"
  return str(hint) if origin else getattr(hint, "__name__", str(hint))


def _show(value: Any) -> str:
  return json.dumps(value) if isinstance(value, str) else repr(value)


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
