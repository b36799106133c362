"""From a folder of clips to raw records, and a list of what was refused.

Two Beam pipelines: the first reads every clip and stages its records, or the
reason why it is refused; the second writes what was staged. They run in this
process unless Beam's own flags say where else, which must see the same
folders.
"""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import apache_beam as beam
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from data_pipelines import captions as tables
from data_pipelines import real_clips, records, staging
from data_pipelines.real_clips import REASONS, RealClip, Refused
from mocha_jax import media

Path = str | os.PathLike[str]
Refusals = Mapping[str, Mapping[str, str]]  # reason -> name -> what was found

SUFFIXES = (".mp4", ".m4v", ".mov", ".mpg", ".mpeg")
_NAMED = 5  # Of captions without a clip, in the summary that is printed.


@dataclasses.dataclass(frozen=True)
class IngestConfig(real_clips.ReadConfig):
  """Which sound belongs to a clip, and where the work is done.

  Attributes:
    speech: Folder of sound files, <clip>.wav or <clip>_speech.wav, that take
      the place of the clips' own sound. Such files are also looked for beside
      the clips.
    text_only: Take every clip without its sound, as kind text_only.
    beam_flags: Of Apache Beam, see `records.beam_options`.
  """

  speech: Path | None = None
  text_only: bool = False
  beam_flags: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Summary:
  """What became of the clips of a folder.

  `records` counts them per split; `unused_captions` names what rows without a
  clip are for; `remarks` says of clips what is worth a look.
  """

  directory: str
  records: Mapping[str, int]
  refused: Refusals
  remarks: Mapping[str, str]
  unused_captions: Sequence[str]

  def __str__(self) -> str:
    written = sum(self.records.values())
    refused = sum(len(clips) for clips in self.refused.values())
    lines = [f"{written} records in {self.directory}, {refused} clips refused"]
    lines += [f"  {split:<28}{n:>6}" for split, n in self.records.items()]
    for reason, clips in self.refused.items():
      lines.append(f"  refused, {reason + ':':<19}{len(clips):>6}")
      lines += [f"    {name}: {found}" for name, found in clips.items()]
    lines += [f"  {name}: {remark}" for name, remark in self.remarks.items()]
    if unused := self.unused_captions:
      lines.append(f"  {'captions without a clip':<28}{len(unused):>6}")
      more = ", ..." if len(unused) > _NAMED else ""
      lines.append(f"    {', '.join(unused[:_NAMED])}{more}")
    return "\n".join(lines)


def ingest(
  folder: Path,
  captions: Path,
  *,
  clip: media.ClipFormat,
  directory: Path,
  options: IngestConfig,
) -> Summary:
  """Turn the clips of a folder into raw records; refuse what is no use.

  The summary also goes to <directory>/ingest.json.

  Raises:
    FileNotFoundError: A folder or file that was named is not there.
    ValueError: The folder holds no clip, the captions are no such table, or
      `directory` holds records already or another process writes it.
  """
  directory = pathlib.Path(directory)
  clips, refused, remarks, unused = _plan(
    pathlib.Path(folder), pathlib.Path(captions), options
  )
  with staging.folder(directory) as stage:
    if records.exists(directory):
      raise ValueError(f"{directory} already holds records; remove them first")
    _stage_all(clips, clip, options, str(stage))
    staged = collections.defaultdict(list)
    for path in sorted(stage.glob("*.json")):
      outcome = json.loads(path.read_text())
      if outcome["reason"]:
        refused[outcome["reason"]][outcome["name"]] = outcome["detail"]
      elif outcome["detail"]:
        remarks[outcome["name"]] = outcome["detail"]
      staged[outcome["split"]] += outcome["staged"]
    staged = {split: paths for split, paths in staged.items() if paths}
    if staged:
      _write(stage, staged, clip, options)
      staging.move(stage, directory, records.NAME)
  summary = Summary(
    str(directory),
    {split: len(paths) for split, paths in sorted(staged.items())},
    {reason: refused[reason] for reason in REASONS if refused[reason]},
    remarks,
    unused,
  )
  _save(summary, directory / "ingest.json")
  return summary


def _plan(
  folder: pathlib.Path, captions: pathlib.Path, options: IngestConfig
) -> tuple[
  list[RealClip], dict[str, dict[str, str]], dict[str, str], list[str]
]:
  """Return the clips, those refused for their caption, remarks, unused rows."""
  if options.speech is not None and not os.path.isdir(options.speech):
    raise FileNotFoundError(f"{options.speech}: no such folder")
  paths = _names(folder)
  rows = tables.read(captions)
  found = tables.match(rows, paths)
  clips, refused = [], collections.defaultdict(dict)
  for name, path in paths.items():
    try:
      row = _one_row(found.get(name, []))
      kind = "text_only" if options.text_only else row.kind or "close_up"
      speech = None
      if kind != "text_only":
        speech = _speech(row, path, folder, captions.parent, options)
    except Refused as error:
      refused[error.reason][name] = error.detail
      continue
    split = f"train_{kind}" if row.split in ("", "train") else row.split
    clips.append(RealClip(name, folder / path, row.prompt, kind, split, speech))
  used = {row for several in found.values() for row in several}
  unused = [row for row in rows if row not in used]
  names = [row.clip or f"line {row.line}" for row in unused]
  return clips, refused, _unread(folder, unused), names


def _unread(
  folder: pathlib.Path, unused: Sequence[tables.Caption]
) -> dict[str, str]:
  """Name files that rows without a clip may mean, but that are not read."""
  others = {
    str(path): path
    for path in (found.relative_to(folder) for found in folder.rglob("*"))
    if path.suffix.lower() not in SUFFIXES and (folder / path).is_file()
  }
  return {
    name: f"no clip, whose names end in {', '.join(SUFFIXES)}"
    for _, names in tables.meant(unused, others)
    for name in sorted(names)
  }


def _names(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Name clips by their path; the suffix counts if nothing else differs."""
  if not folder.is_dir():
    raise FileNotFoundError(f"{folder}: no such folder")
  paths = sorted(
    path.relative_to(folder)
    for path in folder.rglob("*")
    if path.suffix.lower() in SUFFIXES and path.is_file()
  )
  if not paths:
    raise ValueError(f"{folder}: holds no clip ({', '.join(SUFFIXES)})")
  short = {path: path.with_suffix("") for path in paths}
  bare = collections.Counter(short.values())
  return {
    (short[path] if bare[short[path]] == 1 else path).as_posix(): path
    for path in paths
  }


def _one_row(rows: Sequence[tables.Caption]) -> tables.Caption:
  if not rows or not rows[0].prompt:
    raise Refused("no caption", "no row of the captions has a prompt for it")
  if len(rows) > 1:
    lines = ", ".join(str(row.line) for row in rows)
    raise Refused("bad caption", f"several rows are for it: lines {lines}")
  return rows[0]


def _speech(
  row: tables.Caption,
  clip: pathlib.Path,
  folder: pathlib.Path,
  table: pathlib.Path,
  options: IngestConfig,
) -> pathlib.Path | None:
  """Return the file with a clip's speech; None if it is in the clip."""
  if row.speech:
    named = [table / row.speech, folder / row.speech]
    if not any(path.is_file() for path in named):
      raise Refused("soundless", f"{row.speech}: no such file")
  else:
    stems = [folder / clip.with_suffix("")]
    if options.speech is not None:
      stems.insert(0, pathlib.Path(options.speech, clip.with_suffix("")))
      stems.insert(1, pathlib.Path(options.speech, clip.stem))
    named = [
      stem.with_name(stem.name + end)
      for stem in stems
      for end in ("_speech.wav", ".wav")
    ]
  return next((path for path in named if path.is_file()), None)


def _stage_all(clips, clip, options, stage) -> None:
  config = real_clips.ReadConfig(
    options.align, options.windows, options.silence
  )
  with beam.Pipeline(
    options=records.beam_options(options.beam_flags)
  ) as pipeline:
    _ = (
      pipeline
      | beam.Create(list(enumerate(clips)))
      | beam.Reshuffle()
      | beam.Map(_stage, clip=clip, config=config, stage=stage)
    )


def _stage(
  numbered: tuple[int, RealClip],
  clip: media.ClipFormat,
  config: real_clips.ReadConfig,
  stage: str,
) -> None:
  """Write a clip's records, and then what became of it."""
  number, source = numbered
  taken, reason, detail = [], "", ""
  try:
    taken, detail = real_clips.read(source, clip, config)
  except Refused as error:
    reason, detail = error.reason, error.detail
  staged = [
    os.path.join(stage, f"{number:08}_{window:04}.safetensors")
    for window in range(len(taken))
  ]
  for path, record in zip(staged, taken, strict=True):
    texts = {key: x for key, x in record.items() if isinstance(x, str)}
    arrays = {k: np.asarray(x) for k, x in record.items() if k not in texts}
    save_file(arrays, path, texts)
  outcome = {
    "name": source.name,
    "split": source.split,
    "reason": reason,
    "detail": detail,
    "staged": staged,
  }
  path = os.path.join(stage, f"{number:08}.json")
  with open(path, "w", encoding="utf-8") as file:
    json.dump(outcome, file)


def _unstage(path: str) -> records.Record:
  # Not .npz: numpy parses its headers as Python, which in Python 3.11 fails now
  # and then when several threads do it.
  with safe_open(path, "np") as file:
    arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return {**arrays, **(file.metadata() or {})}


def _write(directory, staged, clip, options) -> None:
  records.write(
    directory,
    {
      split: beam.Create(paths) | beam.Reshuffle() | beam.Map(_unstage)
      for split, paths in sorted(staged.items())
    },
    kind=records.RAW,
    metadata={"source": "ingest", "clip": dataclasses.asdict(clip)},
    beam_flags=options.beam_flags,
  )


def _save(summary: Summary, path: pathlib.Path) -> None:
  text = json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False)
  path.write_text(text + "\n", encoding="utf-8")
