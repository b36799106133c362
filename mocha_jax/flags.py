"""The flags of `mocha`: what each verb can be told, and how that reads."""

import argparse
from pathlib import Path
from typing import NoReturn


class UsageError(ValueError):
  """The command line itself is wrong."""


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise UsageError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
  """Make the parser; what it returns has the verb's name as `verb`.

  It raises UsageError where argparse would end the process.
  """
  parser = _Parser(
    prog="mocha",
    description="Train MoCha: speech and text to video of talking characters.",
    epilog="`mocha VERB --help` lists the flags of a verb.",
  )
  verbs = parser.add_subparsers(metavar="VERB", required=True)
  data = verbs.add_parser("data", help="make, take in, encode or show clips")
  _add_data_verbs(data.add_subparsers(metavar="VERB", required=True))
  train = _add(verbs, "train", "train, or go on training, a model")
  _add_config(train)
  _add_train_flags(train)
  _add_compile_flags(
    _add(verbs, "compile", "compile the train step for a TPU pod, without one")
  )
  _add_sample_flags(_add(verbs, "sample", "make clips from prompts and speech"))
  score = _add(verbs, "score", "measure a run on its held-out clips")
  score.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
  bring = _add(verbs, "import", "make a run of other people's weights")
  _add_config(bring)
  _add_import_flags(bring)
  _add_export_flags(_add(verbs, "export", "write a run as files for others"))
  _add(verbs, "experiments", "list what --config can name")
  return parser


def _add_data_verbs(verbs) -> None:
  _add_config(_add(verbs, "toy", "make the Cartoon Talkers data set"))

  ingest = _add(verbs, "ingest", "take in clips of your own")
  ingest.add_argument(
    "folder", type=Path, metavar="FOLDER", help="mp4, mov or mpg files"
  )
  ingest.add_argument(
    "--captions",
    type=Path,
    required=True,
    metavar="CSV",
    help="a table with the columns clip and prompt, and optionally kind,"
    " split and speech",
  )
  ingest.add_argument(
    "--speech",
    type=Path,
    metavar="FOLDER",
    help="sound files CLIP.wav that take the place of the clips' own sound",
  )
  ingest.add_argument(
    "--text-only",
    action="store_true",
    help="take every clip without its sound",
  )
  ingest.add_argument(
    "--align",
    action="store_true",
    help="shift speech from a file to where the clip's own sound has it",
  )
  ingest.add_argument(
    "--windows",
    type=int,
    default=1,
    metavar="N",
    help="cut a long clip into up to N records (1: its beginning alone)",
  )
  _add_config(ingest)
  _add_beam(ingest)

  encode = _add(verbs, "encode", "encode raw clips into what training reads")
  encode.add_argument(
    "--overwrite",
    action="store_true",
    help="replace records that were made with another config",
  )
  _add_config(encode)
  _add_beam(encode)

  inspect = _add(verbs, "inspect", "show what a data folder holds")
  inspect.add_argument(
    "folder", type=Path, metavar="DIR", help="such as data/quickstart"
  )


def _add_train_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--run",
    type=Path,
    metavar="FOLDER",
    help="where the run is kept, and goes on from its newest checkpoint"
    " (default: runs/NAME)",
  )
  parser.add_argument(
    "--profile",
    type=_steps,
    metavar="A:B",
    help="trace the steps A up to B into FOLDER/profile, for xprof",
  )
  parser.add_argument(
    "--cache",
    type=Path,
    metavar="FOLDER",
    help="where compiled programs are kept (default:"
    " JAX_COMPILATION_CACHE_DIR, or else ~/.cache/mocha_jax/xla)",
  )
  _add_processes(parser)


def _add_processes(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="of process 0, where a run has several; with the next two. Without"
    " them Cloud TPU, GKE, Slurm and Open MPI are detected",
  )
  parser.add_argument(
    "--processes", type=_count, metavar="N", help="how many there are"
  )
  parser.add_argument(
    "--process", type=int, metavar="I", help="which one this is: 0 to N - 1"
  )


def _add_compile_flags(parser: argparse.ArgumentParser) -> None:
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument(
    "--config",
    default=argparse.SUPPRESS,
    metavar="NAME",
    help="an experiment, or the path of its file, and its"
    " --config.SECTION.KEY=VALUE",
  )
  what.add_argument(
    "--compare",
    nargs=2,
    metavar=("A", "B"),
    help="two experiments, side by side",
  )
  what.add_argument(
    "--all", action="store_true", help="every experiment made for a pod"
  )
  parser.add_argument(
    "--topology",
    metavar="POD",
    help="such as v5p-1024, tpu7x-128, v6e-256, or a shape such as v5p:8x8x8"
    " (default: what the experiment is made for)",
  )
  parser.add_argument(
    "--slices",
    type=_count,
    metavar="N",
    help="so many of them (default: as the config's mesh says)",
  )
  parser.add_argument(
    "--json", type=Path, metavar="FILE", help="write the figures here too"
  )
  parser.add_argument(
    "--search",
    type=_count,
    nargs="?",
    const=6,
    metavar="N",
    help="try meshes and rematerialisation; compile the N most promising"
    " (default: 6) and print them, best first",
  )


def _add_sample_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--run", type=Path, required=True, metavar="RUN", help="the run's folder"
  )
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--prompt", metavar="TEXT", help="what the clip shows")
  what.add_argument(
    "--csv",
    type=Path,
    metavar="CSV",
    help="many clips: a table with the columns name, prompt and speech",
  )
  parser.add_argument(
    "--speech",
    type=Path,
    metavar="WAV",
    help="what is said; without it, nothing is",
  )
  parser.add_argument(
    "--out",
    type=Path,
    required=True,
    metavar="PATH",
    help="the mp4 to write, or with --csv the folder for NAME.mp4",
  )
  parser.add_argument(
    "--frames",
    type=_count,
    metavar="F",
    help="length of the clip (default: as long as the speech, or as the"
    " training clips)",
  )
  parser.add_argument("--seed", type=int, default=0, help="default: 0")
  for name, kind in (
    ("steps", int),
    ("speech-guidance", float),
    ("text-guidance", float),
  ):
    parser.add_argument(
      f"--{name}",
      type=kind,
      metavar=name[0].upper(),
      help="default: as the run's config says",
    )


def _add_import_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--from",
    dest="source",
    type=Path,
    required=True,
    metavar="PATH",
    help="a .safetensors file, PyTorch's .pth or .bin, an index of several, or"
    " a folder with any (of diffusers, of Wan's own or of `mocha export`)",
  )
  parser.add_argument(
    "--run",
    type=Path,
    required=True,
    metavar="FOLDER",
    help="the run to make, for `mocha train` to go on from",
  )
  _add_processes(parser)


def _add_export_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--run", type=Path, required=True, metavar="RUN", help="the run's folder"
  )
  parser.add_argument(
    "--format",
    required=True,
    choices=("diffusers", "safetensors", "stablehlo"),
    help="diffusers: a folder for PyTorch's DiffusionPipeline.from_pretrained;"
    " safetensors: parameters by our names, and the config as JSON;"
    " stablehlo: programs for CUDA, ROCm, TPUs and CPUs",
  )
  parser.add_argument(
    "--out", type=Path, required=True, metavar="FOLDER", help="to be made"
  )
  parser.add_argument(
    "--raw",
    action="store_true",
    help="the parameters themselves, not their moving average",
  )
  parser.add_argument(
    "--lora",
    choices=("merged", "apart"),
    default="merged",
    help="adapters added to what they adapt, or beside it (default: merged)",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="of the parameters (default: float32, as they are)",
  )


def _count(text: str) -> int:
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text} must be a number, at least 1")
  return int(text)


def _steps(text: str) -> tuple[int, int]:
  first, colon, end = text.partition(":")
  if not (colon and first.isdecimal() and end.isdecimal()):
    raise argparse.ArgumentTypeError(f"{text} must be A:B, such as 10:15")
  return int(first), int(end)


def _add(verbs, name: str, summary: str) -> argparse.ArgumentParser:
  parser = verbs.add_parser(
    name,
    help=summary,
    description=f"{summary[0].upper()}{summary[1:]}.",
    allow_abbrev=False,
  )
  parser.set_defaults(verb=name)
  return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--config",
    required=True,
    metavar="NAME",
    help="an experiment (see `mocha experiments`) or the path of its file;"
    " --config.SECTION.KEY=VALUE, as often as needed, changes a key of it",
  )


def _add_beam(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--beam",
    action="append",
    default=[],
    metavar="FLAG",
    help="a flag for Apache Beam, such as --beam=--runner=DataflowRunner;"
    " may be given often",
  )
