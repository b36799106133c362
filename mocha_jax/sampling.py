"""The verb `sample`: from prompts and files of speech to mp4s with sound."""

import collections
import contextlib
import csv
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mocha_jax import generation, media, prompts

_COLUMNS = ("name", "prompt", "speech")


@dataclasses.dataclass(frozen=True)
class Wish:
  """A clip that is asked for: what it shows, what is said (None: nothing)."""

  prompt: str
  speech: pathlib.Path | None
  out: pathlib.Path


def read_wishes(table: pathlib.Path, folder: pathlib.Path) -> tuple[Wish, ...]:
  r"""Read a CSV file with the columns name, prompt and speech.

  A prompt may stand in quotes of its own, with \n for a line end.
  The clip goes to <folder>/<name>.mp4. The path of a speech file counts from
  the table's folder; an empty cell asks for a clip without speech.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: A column is missing, a name is missing or not the only one of
      its kind, or it is no CSV file.
  """
  if not table.is_file():
    raise FileNotFoundError(f"{table}: no such file")
  try:
    with table.open(encoding="utf-8-sig", newline="") as file:
      reader = csv.DictReader(file)
      columns = list(reader.fieldnames or ())
      rows = [(reader.line_num, row) for row in reader]
  except (UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f"{table}: no CSV file: {error}") from error
  for column in _COLUMNS:
    if column not in columns:
      raise ValueError(
        f"{table}: no column {column}; it has {', '.join(columns)}"
      )
  wishes = {}
  for line, row in rows:
    name, prompt, speech = ((row[c] or "").strip() for c in _COLUMNS)
    out = folder / f"{name}.mp4"
    if not name or out in wishes:
      raise ValueError(
        f"{table}, line {line}: name {name!r} must be given, and once only"
      )
    wishes[out] = Wish(
      prompts.unquote(prompt), table.parent / speech if speech else None, out
    )
  if not wishes:
    raise ValueError(f"{table}: holds no row")
  return tuple(wishes.values())


def sample(
  run: pathlib.Path,
  wishes: Sequence[Wish],
  *,
  seed: int,
  frames: int | None,
  changes: Mapping[str, float | int | None],
) -> None:
  """Sample the clips that are wished for with the model of a run.

  A clip lasts as long as its speech, or as the training clips if it has none,
  unless `frames` says how long. `changes` are to the run's section `sample`.

  Raises:
    FileNotFoundError: A speech file, the run or its checkpoint is not there.
    ValueError: A prompt, a speech file or a length that the model cannot take;
      nothing is written then.
  """
  for wish in wishes:
    _check(wish)
  generator = generation.Generator.from_run(run)
  settings = generation.replace(generator.settings, **changes)
  for wish in wishes:
    with _naming(wish):
      generator.check([wish.prompt])
  groups = collections.defaultdict(list)
  for wish in wishes:
    speech = _speech(wish, generator.clip.sample_rate)
    groups[_length(generator, wish, speech, frames)].append((wish, speech))
  for length, group in groups.items():
    clips = generator.generate(
      [wish.prompt for wish, _ in group],
      [speech for _, speech in group],
      seed=seed,
      frames=length,
      settings=settings,
    )
    for (wish, speech), clip in zip(group, clips, strict=True):
      _write(generator.clip, wish, clip, speech)


@contextlib.contextmanager
def _naming(wish: Wish) -> Iterator[None]:
  """Say whose prompt an error is about."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"the prompt of {wish.out}: {error}") from error


def _check(wish: Wish) -> None:
  """Find what is wrong before the model is loaded."""
  media.check_video_path(wish.out)
  with _naming(wish):
    prompts.parse(wish.prompt)
  if wish.speech is not None and not wish.speech.is_file():
    raise FileNotFoundError(f"{wish.speech}: no such file")


def _speech(wish: Wish, sample_rate: int) -> Float[np.ndarray, "A"]:
  if wish.speech is None:
    return np.zeros(0, np.float32)
  return media.read_sound(wish.speech, sample_rate)


def _length(generator, wish: Wish, speech, frames: int | None) -> int:
  """Return how many frames a clip lasts."""
  if frames is not None:
    return frames
  if not len(speech):
    return generator.clip.frames
  try:
    return generator.frames_for(speech)
  except ValueError as error:
    raise ValueError(f"{wish.speech}: {error}") from error


def _write(clip: media.ClipFormat, wish: Wish, frames, speech) -> None:
  samples = round(len(frames) * clip.sample_rate / clip.fps)
  media.write_video(
    wish.out,
    frames,
    clip.fps,
    media.fit(speech, samples) if len(speech) else None,
    clip.sample_rate,
  )
  print(f"wrote {wish.out}")
