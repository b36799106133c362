"""Which caption belongs to which clip: a table's rows found by name."""

import collections
import csv
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Set

from data_pipelines import records
from mocha_jax import prompts
from mocha_jax.sections import nearest

# The names that a column may have; the first found counts.
_NAME = ("clip", "name", "context_id")
_PROMPT = ("prompt", "caption")
_SPLITS = ("train", "test", "test_other_language")


@dataclasses.dataclass(frozen=True)
class Caption:
  """One row: what a clip shows, and what else is said of it ("": nothing).

  `kind` is one of `records.KINDS`, `split` train, test or
  test_other_language, `speech` the path of a sound file.
  """

  line: int
  clip: str
  prompt: str
  category: str
  kind: str
  split: str
  speech: str


def read(path: pathlib.Path) -> list[Caption]:
  """Read a CSV file with a column for the clip and one for its prompt.

  The clip's column is called clip, name or context_id, the prompt's prompt or
  caption; category, kind, split and speech are optional, others are ignored.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: A column is missing, a kind or a split is unknown, or it is
      no CSV file.
  """
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file")
  try:
    with path.open(encoding="utf-8-sig", newline="") as file:
      reader = csv.DictReader(file)
      columns = list(reader.fieldnames or ())
      name, prompt = (
        _column(path, columns, _NAME),
        _column(path, columns, _PROMPT),
      )
      rows = [(reader.line_num, row) for row in reader]
  except (UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f"{path}: no CSV file: {error}") from error
  captions = []
  for line, row in rows:
    cells = {key: (row.get(key) or "").strip() for key in columns}
    optional = {
      key: cells.get(key, "") for key in ("category", "kind", "split", "speech")
    }
    _check(path, line, "kind", optional["kind"], records.KINDS)
    _check(path, line, "split", optional["split"], _SPLITS)
    text = prompts.unquote(cells[prompt])
    captions.append(Caption(line, cells[name], text, **optional))
  return captions


def match(
  captions: Iterable[Caption], clips: Mapping[str, pathlib.PurePath]
) -> dict[str, list[Caption]]:
  """Find the captions of each clip; `clips` maps names to relative paths.

  A row may give the path, with or without its suffix, the file's name alone,
  or, with a category, what lies below the folder of that name. Rows without
  a clip are left out. Raises ValueError if a row fits more than one clip.
  """
  found = collections.defaultdict(list)
  for caption, names in meant(captions, clips):
    if len(names) > 1:
      raise ValueError(
        f"captions, line {caption.line}: {caption.clip!r} may be "
        f"{' or '.join(str(clips[name]) for name in sorted(names))}; "
        "give the path"
      )
    for name in names:
      found[name].append(caption)
  return dict(found)


def meant(
  captions: Iterable[Caption], clips: Mapping[str, pathlib.PurePath]
) -> Iterator[tuple[Caption, Set[str]]]:
  """Yield each caption with the names of all clips that it fits."""
  known = collections.defaultdict(set)
  for name, path in clips.items():
    for key in (path, path.with_suffix("")):
      known[str(key)].add(name)
      known[key.name].add(name)
  for caption in captions:
    keys = (f"{caption.category}/{caption.clip}", caption.clip)
    yield caption, next((known[key] for key in keys if key in known), set())


def _column(
  path: pathlib.Path, columns: list[str], names: tuple[str, ...]
) -> str:
  for name in names:
    if name in columns:
      return name
  raise ValueError(
    f"{path}: no column {' or '.join(names)}; it has {', '.join(columns)}"
  )


def _check(path, line: int, column: str, value: str, known) -> None:
  if value and value not in known:
    raise ValueError(
      f"{path}, line {line}: {column} {value!r} is unknown"
      f"{nearest(value, known)}"
    )
