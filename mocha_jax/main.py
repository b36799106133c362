"""The command `mocha`: each verb calls one function, an error is one line."""

import dataclasses
import dis
import logging
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mocha_jax import config as configs
from mocha_jax import flags, overrides

if TYPE_CHECKING:
  from ml_collections import ConfigDict

# Which extra brings a package that not every install has.
_EXTRAS = {
  "apache_beam": "data",
  "espeakng_loader": "toy",
  "PIL": "toy",
  "torch": "torch",
}
_EXPECTED = (ValueError, NotImplementedError, OSError, ImportError)
_OURS = ("mocha_jax", "data_pipelines", "experiments")


def run(argv: Sequence[str] | None = None) -> int:
  """Run one verb; return 0, or 2 if what was asked for cannot be done.

  With MOCHA_DEBUG=1 in the environment, its traceback comes before the line.
  An error that is our own fault is raised.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  verb = _verb(arguments)
  try:
    changes, arguments = overrides.split(arguments)
    asked = flags.make_parser().parse_args(arguments)
    if asked.verb == "compile":
      _compile(asked, changes)
    elif "config" in asked:
      config = overrides.apply(configs.load(asked.config), changes)
      _WITH_CONFIG[asked.verb](asked, config)
    elif changes:
      raise flags.UsageError(f"{changes[0]}: this verb takes no --config")
    else:
      _WITHOUT_CONFIG[asked.verb](asked)
  except (KeyboardInterrupt, Exception) as error:
    line = _line(error)
    if line is None:
      raise
    if os.environ.get("MOCHA_DEBUG") == "1":
      traceback.print_exc()
    print(f"{verb}: {line}", file=sys.stderr)
    return 130 if isinstance(error, KeyboardInterrupt) else 2
  return 0


def _line(error: BaseException) -> str | None:
  """Say in one line what the user can change; None if the fault is ours.

  The user's is what our own code raises; ours is what another library, or the
  interpreter, raises on what we gave it.
  """
  if isinstance(error, KeyboardInterrupt | SystemExit):
    return "stopped"
  if not isinstance(error, _EXPECTED):
    return None
  if isinstance(error, ImportError):
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    wanted = f"pip install 'mocha_jax[{extra}]'"
    return f"{error.name} is not installed: {wanted}" if extra else None
  if not isinstance(error, OSError) and not _raised_by_us(error):
    return None
  return " ".join(str(error).split()) or type(error).__name__


def _raised_by_us(error: BaseException) -> bool:
  """Return whether a `raise` of our own packages is where it comes from."""
  last = error.__traceback__
  if last is None:
    return False
  while last.tb_next:
    last = last.tb_next
  frame = last.tb_frame
  package = frame.f_globals.get("__name__", "").partition(".")[0]
  # Otherwise a function in C that was called there raised it.
  instruction = frame.f_code.co_code[last.tb_lasti]
  return package in _OURS and dis.opname[instruction] == "RAISE_VARARGS"


def _verb(arguments: Sequence[str]) -> str:
  """Name the verb for error messages: `mocha data toy`."""
  words = []
  for word in arguments[:2]:
    if word.startswith("-") or (words and words[0] != "data"):
      break
    words.append(word)
  return " ".join(["mocha", *words])


def _toy(asked: Namespace, config: "ConfigDict") -> None:
  from data_pipelines.toy import build

  build.build(config)


def _ingest(asked: Namespace, config: "ConfigDict") -> None:
  _hush_beam()
  from data_pipelines import ingest, records
  from mocha_jax import media

  options = ingest.IngestConfig(
    align=asked.align,
    windows=asked.windows,
    speech=asked.speech,
    text_only=asked.text_only,
  )
  if asked.beam:
    options = dataclasses.replace(options, beam_flags=asked.beam)
  summary = ingest.ingest(
    asked.folder,
    asked.captions,
    clip=configs.section(media.ClipFormat, config.clip, "clip"),
    directory=Path(config.to_dict()["data"]["root"], records.RAW),
    options=options,
  )
  print(summary)


def _encode(asked: Namespace, config: "ConfigDict") -> None:
  _hush_beam()
  from data_pipelines import encode

  encode.encode(
    config, beam_flags=asked.beam or None, overwrite=asked.overwrite
  )


def _inspect(asked: Namespace) -> None:
  from data_pipelines import inspect

  print(inspect.describe(asked.folder))


def _train(asked: Namespace, config: "ConfigDict") -> None:
  from mocha_jax import train
  from mocha_jax.launch import processes

  if asked.run is None and asked.config.endswith(".json"):
    raise flags.UsageError(f"--config {asked.config} has no name: give --run")
  folder = asked.run or Path("runs", Path(asked.config).stem)
  processes.join(asked.coordinator, asked.processes, asked.process)
  with processes.ending_together("mocha train", _line):
    train.train(config, folder, profile=asked.profile, cache=asked.cache)


def _import(asked: Namespace, config: "ConfigDict") -> None:
  from mocha_jax import importing
  from mocha_jax.launch import processes

  processes.join(asked.coordinator, asked.processes, asked.process)
  with processes.ending_together("mocha import", _line):
    found = importing.bring_in(config, asked.source, asked.run)
    if processes.is_first():
      print(found)
      print(f"wrote {asked.run}")


def _export(asked: Namespace) -> None:
  from mocha_jax import exporting

  source = exporting.open_source(
    asked.run,
    raw=asked.raw,
    apart=asked.lora == "apart",
    dtype=asked.dtype,
  )
  exporting.export(source, asked.out, asked.format)
  print(f"wrote {asked.out}: {source.part} of step {source.step}")


def _compile(asked: Namespace, changes: Sequence[str]) -> None:
  from mocha_jax.compilation import command

  pod = dict(pod=asked.topology, slices=asked.slices)
  if "config" not in asked:
    if asked.json or asked.search:
      raise flags.UsageError("--json and --search go with --config")
    if asked.all and (changes or asked.topology or asked.slices):
      raise flags.UsageError("--all compiles experiments as they are")
    if asked.all:
      command.compile_registered()
    else:
      command.compare(asked.compare, changes, **pod)
    return
  config = overrides.apply(configs.load(asked.config), changes)
  if asked.search:
    if asked.json:
      raise flags.UsageError("--json goes with one program, not with --search")
    command.search(config, asked.config, changes, tries=asked.search, **pod)
  else:
    command.compile_one(config, asked.config, json=asked.json, **pod)


def _sample(asked: Namespace) -> None:
  from mocha_jax import sampling

  if asked.csv:
    if asked.speech:
      raise flags.UsageError(
        "--speech goes with --prompt; --csv has a column for it"
      )
    wishes = sampling.read_wishes(asked.csv, asked.out)
  else:
    wishes = (sampling.Wish(asked.prompt, asked.speech, asked.out),)
  sampling.sample(
    asked.run,
    wishes,
    seed=asked.seed,
    frames=asked.frames,
    changes=dict(
      steps=asked.steps,
      speech_guidance=asked.speech_guidance,
      text_guidance=asked.text_guidance,
    ),
  )


def _score(asked: Namespace) -> None:
  from rich.console import Console

  from mocha_jax.evaluation import report, score, table

  Console().print(table.table(score.score(asked.run)))
  print(f"wrote {report.write(asked.run)}")
  print(f"wrote {asked.run / 'scores.json'}")
  print(f"wrote {asked.run / 'samples'}")


def _experiments(asked: Namespace) -> None:
  del asked
  names = configs.names()
  for name in names:
    print(f"{name:{max(map(len, names))}}  {configs.summary(name)}")


def _hush_beam() -> None:
  """Drop what Beam says on import about a cloud that nobody asked for."""
  logging.getLogger().addFilter(
    lambda record: "apitools not found" not in record.getMessage()
  )


_WITH_CONFIG = {
  "toy": _toy,
  "ingest": _ingest,
  "encode": _encode,
  "train": _train,
  "import": _import,
}
_WITHOUT_CONFIG = {
  "inspect": _inspect,
  "sample": _sample,
  "score": _score,
  "export": _export,
  "experiments": _experiments,
}
