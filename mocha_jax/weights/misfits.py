"""What does not fit between a file of tensors and parameters, in one line."""

import collections
import contextlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_MOST = 20  # Items that are listed; those of layers are one.


class Misfit(ValueError):
  """What a file holds does not fit; which file it is, `of` adds."""


class Item(NamedTuple):
  """A tensor that does not fit.

  kind: "missing", "extra" and so on; rest: what else there is to say.
  """

  kind: str
  name: str
  rest: str = ""


@contextlib.contextmanager
def of(path: pathlib.Path | str) -> Iterator[None]:
  """Let what the body says of misfits begin with the path of the file."""
  try:
    yield
  except Misfit as error:
    raise ValueError(f"{path}: {error}") from error


def strangers(names: Mapping[str, object], whose: str) -> Misfit:
  """Return the error that no name of a file is known; whose: would be."""
  first = ", ".join(itertools.islice(names, 3))
  return Misfit(
    f"none of its tensors ({len(names)}) has a name of {whose}; first comes "
    f"{first}"
  )


def misfit(items: Sequence[Item]) -> Misfit:
  """Return the error that lists them, layers folded, at most some twenty.

  3 tensors do not fit: missing blocks.{0..1}.q; extra z (2,)
  """
  folded: dict[tuple[str, str, str], list[int | None]]
  folded = collections.defaultdict(list)
  for kind, name, rest in items:
    pattern, number = _numbered(name)
    folded[kind, pattern, rest].append(number)
  kinds: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
  for (kind, pattern, rest), numbers in folded.items():
    name = pattern.replace(_PLACE, _ranges(numbers))
    kinds[kind].append((f"{kind} {name}{rest}", len(numbers)))
  share = _MOST // len(kinds)
  said = [text for each in kinds.values() for text, _ in each[:share]]
  left = {
    kind: sum(count for _, count in each[share:])
    for kind, each in kinds.items()
    if each[share:]
  }
  if left:
    by_kind = ", ".join(f"{count} {kind}" for kind, count in left.items())
    said.append(f"and {sum(left.values())} more ({by_kind})")
  verb = "does not fit" if len(items) == 1 else "do not fit"
  return Misfit(f"{_tensors(len(items))} {verb}: {'; '.join(said)}")


_PLACE = "\0"  # In no name: where the number of its layer is.


def _numbered(name: str) -> tuple[str, int | None]:
  """Return a name without its first number, and that: layers come first."""
  parts = name.split(".")
  for i, part in enumerate(parts):
    if part.isdecimal():
      return ".".join([*parts[:i], _PLACE, *parts[i + 1 :]]), int(part)
  return name, None


def _ranges(numbers: Sequence[int | None]) -> str:
  """Write numbers as 3 or {0..3,7}."""
  runs: list[list[int]] = []
  for number in sorted(n for n in numbers if n is not None):
    if runs and number == runs[-1][-1] + 1:
      runs[-1].append(number)
    else:
      runs.append([number])
  if len(numbers) == 1:
    return str(numbers[0])
  return "{" + ",".join(map(_run, runs)) + "}"


def _run(numbers: Sequence[int]) -> str:
  if len(numbers) == 1:
    return str(numbers[0])
  return f"{numbers[0]}..{numbers[-1]}"


def _tensors(count: int) -> str:
  return f"{count} tensor" if count == 1 else f"{count} tensors"
