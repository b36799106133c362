"""How a section of a config becomes a frozen dataclass, checked as it does.

It needs the standard library alone, so that whatever takes a section runs
wherever JAX does.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


def section(cls: type[T], mapping: Any, name: str) -> T:
  """Build the frozen dataclass `cls` from the section `name` of a config.

  `mapping` is a ConfigDict or a dict. Integers are taken for floats, lists for
  tuples. Raises ValueError for a key that is unknown or missing, and for a
  value of another type than the field's annotation or refused by
  `__post_init__`; it names key, value and rule.
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


def positive(config: Any, *names: str) -> None:
  """Refuse those of a config's numbers that are not above 0."""
  for name in names:
    if getattr(config, name) <= 0:
      raise ValueError(f"{name}={getattr(config, name)} must be above 0")


def nearest(word: str, known: Iterable[str]) -> str:
  """Say which known word comes closest: `; nearest is "x"`."""
  words = sorted(known)
  close = difflib.get_close_matches(word, words, n=1, cutoff=0.4)
  if close:
    return f'; nearest is "{close[0]}"'
  return f"; known are {', '.join(words)}" if words else "; none is known"


def _is_required(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is missing and field.default_factory is missing


def _is_mapping(value: Any) -> bool:
  """Tell mappings from the rest; a ConfigDict is no registered Mapping."""
  return hasattr(value, "keys") and hasattr(value, "__getitem__")


def _mapping(value: Any, where: str) -> dict[str, Any]:
  if not _is_mapping(value):
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
  if base in (dict, Mapping) and _is_mapping(value):
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
