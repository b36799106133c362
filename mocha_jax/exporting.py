"""The verb `export`: a run becomes files that others load."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import Literal

import ml_dtypes
import numpy as np

from mocha_jax import config as configs
from mocha_jax import folders, run
from mocha_jax.training import stream
from mocha_jax.training.checkpoint import open_newest
from mocha_jax.weights import files, tables
from mocha_jax.weights.tables import Stored

Format = Literal["safetensors"]
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Source:
  """A run whose parameters are read when they are wanted.

  opened: the run. step: of the checkpoint; part: "ema" or "params".
  parameters: by dotted path.
  """

  opened: run.Run
  step: int
  part: str
  parameters: Mapping[str, Stored]


def open_source(folder: pathlib.Path, *, raw: bool, dtype: Dtype) -> Source:
  """Open the newest checkpoint of a run.

  raw: take the parameters themselves, not their moving average.
  dtype: to read them as.

  Raises:
    FileNotFoundError: there is no run, or no checkpoint in it.
  """
  opened = run.open_run(folder)
  checkpointer = open_newest(opened.checkpoints)
  step, where, parts = (
    checkpointer.latest,
    checkpointer.folder,
    checkpointer.parts,
  )
  checkpointer.close()
  part = "params" if raw or "ema" not in parts else "ema"
  network = run.make_network(opened.config)
  # What is frozen has no average.
  averaged = network.trained(network.shapes) if part == "ema" else {}
  averaged = tables.paths(averaged)
  paths = tables.paths(network.shapes)
  others = [path for path in paths if path not in averaged]
  held = stream.read(where, "params", others)
  held |= stream.read(where, "ema", averaged)
  to = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
  parameters = {path: files.Cast(held[path], to) for path in paths}
  return Source(opened, step or 0, part, parameters)


def export(
  source: Source,
  folder: pathlib.Path,
  kind: Format,
  *,
  shard_bytes: int = files.SHARD_BYTES,
) -> None:
  """Write a folder, which appears when it is whole.

  Raises:
    ValueError: it is there already.
  """
  with folders.appearing_whole(folder) as partial:
    _FORMATS[kind](source, partial, shard_bytes)


def _safetensors(
  source: Source, folder: pathlib.Path, shard_bytes: int
) -> None:
  """Write parameters by our names, config.json, and the codec.

  Layers are apart: blocks.0.mlp.up of [D F].
  """
  network = run.make_network(source.opened.config)
  leaves = tables.bind(
    tables.same_names(network.shapes, network.letters),
    *(network.shapes, network.letters),
  )
  tensors = {
    name: tensor
    for path, leaf in leaves.items()
    for name, tensor in leaf.their_tensors(source.parameters[path])
  }
  files.write_sharded(
    *(folder, tensors),
    stem="model",
    shard_bytes=shard_bytes,
    metadata={"step": str(source.step), "part": source.part},
  )
  text = configs.to_json(source.opened.config)
  (folder / "config.json").write_text(text)
  codec = source.opened.folder / "codec.npz"
  if codec.is_file():
    shutil.copyfile(codec, folder / codec.name)


_FORMATS = {"safetensors": _safetensors}
