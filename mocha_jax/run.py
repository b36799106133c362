"""The run folder: what training leaves behind and everything else opens.

config.json     the experiment, every key
codec.npz       the codec of the data set that it was trained on
checkpoints/    by step
metrics.jsonl, tensorboard/
samples/, scores.json, report.html    written by `mocha score`
"""

import dataclasses
import pathlib
import shutil

import jax
from ml_collections import ConfigDict

from mocha_jax import config as experiments
from mocha_jax.codecs import Codec
from mocha_jax.codecs import load as load_codec
from mocha_jax.models.movie_gen import ModelConfig, MovieGen
from mocha_jax.sections import section
from mocha_jax.training.state import Network

# What a run may change when it goes on: how long, how often, where, what then.
FREE = (
  "train.",
  "optim.decay_steps",
  "mesh.",
  "sample.",
  "score.",
  "data.root",
  "data.workers",
  "toy.",
)


@dataclasses.dataclass(frozen=True)
class Run:
  """A folder and the config in it."""

  folder: pathlib.Path
  config: ConfigDict

  @property
  def checkpoints(self) -> pathlib.Path:
    """Where the checkpoints lie."""
    return self.folder / "checkpoints"

  def codec(self) -> Codec:
    """Load the codec of the run."""
    return load_codec(self.folder / "codec.npz")


def create(
  folder: pathlib.Path, config: ConfigDict, codec: pathlib.Path
) -> Run:
  """Make the run folder, or open it if it is there to go on.

  Raises:
    ValueError: the folder holds checkpoints of another config or codec.
  """
  if (folder / "checkpoints").is_dir():
    _check_same(open_run(folder), config, codec)
  folder.mkdir(parents=True, exist_ok=True)
  shutil.copyfile(codec, folder / "codec.npz")
  partial = folder / "config.json.partial"
  partial.write_text(experiments.to_json(config))
  partial.rename(folder / "config.json")
  return Run(folder, config)


def _check_same(run: Run, config: ConfigDict, codec: pathlib.Path) -> None:
  """Refuse what the checkpoints of a run do not go with."""
  changed = experiments.difference(run.config, config)
  for key, (old, new) in changed.items():
    if not key.startswith(FREE):
      raise ValueError(
        f"{run.folder} holds a run with config.{key} = {old!r}, not {new!r}; "
        "give it back its value or choose another --run"
      )
  if (run.folder / "codec.npz").read_bytes() != codec.read_bytes():
    raise ValueError(
      f"{run.folder} was trained with another codec than {codec}: the data "
      "were made anew; choose another --run"
    )


def open_run(folder: pathlib.Path) -> Run:
  """Open a run folder.

  Raises:
    FileNotFoundError: there is none.
  """
  path = folder / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{folder} is no run folder: it has no config.json; "
      "`mocha train --run` makes one"
    )
  try:
    config = experiments.from_json(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from error
  return Run(folder, config)


def make_network(config: ConfigDict) -> Network:
  """Turn section `model` into a network."""
  model = section(ModelConfig, config.to_dict()["model"], "model")
  return Network(lambda rngs: MovieGen(model, rngs=rngs))


def count_parameters(network: Network) -> int:
  """Return how many numbers the network learns."""
  return sum(x.size for x in jax.tree.leaves(network.shapes))
