"""The verb `export`: a run becomes files that others load."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import Literal

import ml_dtypes
import numpy as np
from ml_collections import ConfigDict

from mocha_jax import config as configs
from mocha_jax import encoders, folders, run
from mocha_jax.export import diffusers_folder, stablehlo
from mocha_jax.models import make_config
from mocha_jax.models.lora import LoraConfig, merge_kernel
from mocha_jax.network import paths
from mocha_jax.training import stream
from mocha_jax.training.checkpoint import open_newest
from mocha_jax.weights import files, tables
from mocha_jax.weights.tables import Index, Stored

Format = Literal["diffusers", "safetensors", "stablehlo"]
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Source:
  """A run whose parameters are read when they are wanted.

  opened: the run; its config has no adapters if they are merged.
  step: of the checkpoint; part: "ema" or "params".
  parameters: by dotted path.
  """

  opened: run.Run
  step: int
  part: str
  parameters: Mapping[str, Stored]


def open_source(
  folder: pathlib.Path, *, raw: bool, apart: bool, dtype: Dtype
) -> Source:
  """Open the newest checkpoint of a run.

  raw: take trained parameters themselves, not their moving average.
  apart: keep adapters, which otherwise are added to what they adapt.
  dtype: to read parameters as.

  Raises:
    FileNotFoundError: there is no run, or no checkpoint in it.
    ValueError: adapters are wanted apart of a run that has none.
  """
  opened = run.open_run(folder)
  adapters = make_config(opened.config.to_dict()["model"]).lora
  if apart and not adapters.rank:
    raise ValueError(
      f"{folder} has no adapters to keep apart (config.model.lora.rank = 0)"
    )
  network = run.make_network(opened.config)
  checkpointer = open_newest(opened.checkpoints)
  step, where = checkpointer.latest, checkpointer.folder
  part = "params" if raw or "ema" not in checkpointer.parts else "ema"
  checkpointer.close()
  parameters: dict[str, Stored] = {
    **stream.read(where, "params", paths(network.shapes)),
    **stream.read(where, part, paths(network.trained(network.shapes))),
  }
  if adapters.rank and not apart:
    opened = _without_adapters(opened)
    parameters = _merged(opened, parameters, adapters)
  to = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
  parameters = {path: files.Cast(x, to) for path, x in parameters.items()}
  return Source(opened, step or 0, part, parameters)


def _without_adapters(opened: run.Run) -> run.Run:
  """Return the run with a config that goes on without adapters."""
  given = opened.config.to_dict()
  given["model"]["lora"]["rank"] = 0
  given["trainable"]["preset"] = "speech"
  return dataclasses.replace(opened, config=ConfigDict(given).lock())


def _merged(
  opened: run.Run, parameters: Mapping[str, Stored], adapters: LoraConfig
) -> dict[str, Stored]:
  """Return the parameters of the run, adapters added to what they adapt."""
  merged = {}
  for path in paths(run.make_network(opened.config).shapes):
    module, _, name = path.rpartition(".")
    down, up = (f"{module}.lora.{name}.{x}" for x in ("down", "up"))
    merged[path] = (
      _Merged(parameters[path], parameters[down], parameters[up], adapters)
      if down in parameters
      else parameters[path]
    )
  return merged


@dataclasses.dataclass(frozen=True)
class _Merged:
  """A kernel of stacked layers with its adapter added."""

  kernel: Stored
  down: Stored
  up: Stored
  adapters: LoraConfig

  @property
  def shape(self) -> tuple[int, ...]:
    return self.kernel.shape

  @property
  def dtype(self) -> np.dtype:
    return self.kernel.dtype

  def read(self, index: Index = ()) -> np.ndarray:
    layers, rest = index[:1], index[1:]
    merged = merge_kernel(
      self.kernel.read(layers),
      self.down.read(layers),
      self.up.read(layers),
      self.adapters,
    )
    return merged[(slice(None), *rest)]


def export(
  source: Source,
  folder: pathlib.Path,
  kind: Format,
  *,
  shard_bytes: int = files.SHARD_BYTES,
) -> None:
  """Write a folder, which appears when it is whole.

  Raises:
    ValueError: it is there already, or what an encoder needs is not where the
      run says.
  """
  with folders.appearing_whole(folder) as partial:
    if kind == "safetensors":
      _write_safetensors(source, partial, shard_bytes)
      return
    _check_encoders(source)
    _WRITERS[kind](
      *(source.opened, source.parameters, partial), shard_bytes=shard_bytes
    )


def _write_safetensors(
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


def _check_encoders(source: Source) -> None:
  """Find out what is wrong with files of encoders before they are copied."""
  given = source.opened.config.to_dict()
  source.opened.check_files(
    [
      encoders.make_speech_encoder(given["speech_encoder"]),
      *encoders.make_text_encoders(given["text_encoder"]).values(),
    ]
  )


_WRITERS = {"diffusers": diffusers_folder.write, "stablehlo": stablehlo.write}
