"""The run folder: what training leaves behind and everything else opens.

config.json     the experiment, every key
codec.npz       the codec of the data set that it was trained on
checkpoints/    by step; 0, with parameters alone, holds what was imported
metrics.jsonl, speed.jsonl, tensorboard/
profile/        if asked for
samples/, scores.json, report.html    written by `mocha score`
"""

import dataclasses
import filecmp
import pathlib
import shutil
import time
from collections.abc import Iterable
from typing import Any

import jax
from ml_collections import ConfigDict

from mocha_jax import config as experiments
from mocha_jax import encoders
from mocha_jax.codecs import Codec, are_same
from mocha_jax.codecs import load as load_codec
from mocha_jax.launch import processes
from mocha_jax.models import make_config, make_model
from mocha_jax.network import Network
from mocha_jax.sections import section
from mocha_jax.training.trainable import TrainableConfig

_SEEN_WITHIN = 60.0  # Seconds.

# What a run may change when it goes on: how long, how often, where and by what
# means, what then. (Of what makes the data: where files lie, and portions.)
FREE = (
  "train.",
  "optim.decay_steps",
  "mesh.",
  "sample.",
  "score.",
  "data.root",
  "data.workers",
  "toy.",
  "model.speech.implementation",
)
_MAKE_DATA = ("codec.", "speech_encoder.", "text_encoder.")


@dataclasses.dataclass(frozen=True)
class Run:
  """A folder and the config in it."""

  folder: pathlib.Path
  config: ConfigDict

  @property
  def checkpoints(self) -> pathlib.Path:
    """Where the checkpoints lie."""
    return self.folder / "checkpoints"

  @property
  def is_imported(self) -> bool:
    """Whether it holds what was imported, and no training has begun."""
    steps = {path.name for path in self.checkpoints.glob("*")}
    return steps == {"0"} and not (self.checkpoints / "0/opt_state").exists()

  def codec(self) -> Codec:
    """Load the codec of the run.

    Raises:
      FileNotFoundError: the run was imported without one.
    """
    if not (self.folder / "codec.npz").is_file():
      raise FileNotFoundError(
        f"{self.folder} has no codec.npz yet: `mocha train` brings that of its "
        "data"
      )
    return load_codec(self.folder / "codec.npz")

  def check_files(
    self, made: Iterable[encoders.SpeechEncoder | encoders.TextEncoder]
  ) -> None:
    """Find out what is wrong with files of encoders, made of its config.

    Raises:
      ValueError: one is missing, or is not what the config says.
    """
    try:
      encoders.check_files(made)
    except ValueError as error:
      where = self.folder / "config.json"
      raise ValueError(f"{error} (the paths stand in {where})") from error


def create(
  folder: pathlib.Path, config: ConfigDict, codec: pathlib.Path
) -> Run:
  """Make the run folder, or open it if it is there to go on.

  Process 0 does it, and the others wait until they see it.

  Raises:
    ValueError: the folder holds checkpoints of another config or codec; or
      this process has another config than process 0, or sees another folder.
  """
  first = processes.from_first("config", lambda: _create(folder, config, codec))
  changed = experiments.difference(experiments.from_json(first), config)
  for key, (there, here) in changed.items():
    raise ValueError(
      f"config.{key} = {here!r} here, but {there!r} on process 0: start all "
      "processes with the same config"
    )
  _wait_for(folder / "config.json")
  if not filecmp.cmp(folder / "codec.npz", codec, shallow=False):
    raise ValueError(
      f"{codec} is another codec here than on process 0: all processes must "
      "read the same data"
    )
  processes.meet("folder")
  return Run(folder, config)


def _create(
  folder: pathlib.Path, config: ConfigDict, codec: pathlib.Path
) -> str:
  """Make or check the folder; return its config as text."""
  if (folder / "checkpoints").is_dir():
    _check_same(open_run(folder), config, codec)
  folder.mkdir(parents=True, exist_ok=True)
  own = folder / "codec.npz"
  if not own.is_file() or not filecmp.cmp(own, codec, shallow=False):
    partial = folder / "codec.npz.partial"
    shutil.copyfile(codec, partial)
    partial.rename(own)
  partial = folder / "config.json.partial"
  text = experiments.to_json(config)
  partial.write_text(text)
  partial.rename(folder / "config.json")
  return text


def _wait_for(path: pathlib.Path) -> None:
  """Wait for a file of process 0; what a network shows may be a while old."""
  end = time.monotonic() + _SEEN_WITHIN
  while not path.is_file():
    if time.monotonic() > end:
      raise ValueError(
        f"{path} is not there, though process 0 wrote it: --run must be a "
        "folder that all processes share"
      )
    time.sleep(0.5)


def _check_same(run: Run, config: ConfigDict, codec: pathlib.Path) -> None:
  """Refuse what the checkpoints of a run do not go with."""
  changed = experiments.difference(run.config, config)
  for key, (old, new) in changed.items():
    begun = not run.is_imported or key.startswith("model.")
    if begun and not _is_free(key, old, new):
      raise ValueError(
        f"{run.folder} holds a run with config.{key} = {old!r}, not {new!r}; "
        "give it back its value or choose another --run"
      )
  own = run.folder / "codec.npz"
  if (run.is_imported and not own.is_file()) or are_same(own, codec):
    return
  if run.is_imported:
    print(f"{codec} takes the place of the codec that {run.folder} came with")
  else:
    raise ValueError(
      f"{run.folder} was trained with another codec than {codec}: the data "
      "were made anew; choose another --run"
    )


def _is_free(key: str, old: Any, new: Any) -> bool:
  """Return whether a run that has begun may change a key of its config."""
  if key.startswith(_MAKE_DATA):  # What differs in the result, the data tell.
    portion = key.rpartition(".")[2] in experiments.PORTIONS
    return portion or experiments.is_path(key, old, new)
  return key.startswith(FREE)


def left_behind(folder: pathlib.Path) -> str:
  """Name what an import that was killed left of the folder; or say nothing."""
  partial = pathlib.Path(f"{folder}.partial")
  if not partial.exists():
    return ""
  return f" ({partial} is what an import left that did not end)"


def open_run(folder: pathlib.Path) -> Run:
  """Open a run folder.

  Raises:
    FileNotFoundError: there is none.
  """
  path = folder / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{folder} is no run folder: it has no config.json; `mocha train --run` "
      f"or `mocha import` makes one{left_behind(folder)}"
    )
  try:
    config = experiments.from_json(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from error
  return Run(folder, experiments.completed(config))


def make_network(config: ConfigDict) -> Network:
  """Turn the sections `model` and `trainable` into a network."""
  given = config.to_dict()
  model = make_config(given["model"])
  trainable = section(TrainableConfig, given["trainable"], "trainable")
  return Network(
    lambda rngs: make_model(model, rngs=rngs),
    trainable.selection(has_adapters=model.lora.rank > 0),
  )


def count_parameters(network: Network) -> tuple[int, int]:
  """Return how many numbers the network has, and how many of them learn."""
  sizes = (
    [x.size for x in jax.tree.leaves(tree)]
    for tree in (network.shapes, network.trained(network.shapes))
  )
  whole, trained = map(sum, sizes)
  return whole, trained
