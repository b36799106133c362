"""A run as a folder that PyTorch's diffusers loads, without us or JAX.

  model_index.json   pipeline_mocha.py   prompts.py   resampling.py
  transformer/       transformer_*.py, config.json, sharded safetensors, index
  scheduler/         scheduler_flow.py, scheduler_config.json
  vae/               codec_*.py (or diffusers' own), config.json, safetensors
  speech_encoder/    speech_*.py, config.json, safetensors
  tokenizer/         tokenizer_*.py, tokenizer_config.json
  text_encoder/      of transformers, where it is not part of the transformer
  pytorch_lora_weights.safetensors    adapters, where they are kept apart

DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline="pipeline_mocha",
trust_remote_code=True) opens it.
"""

import dataclasses
import importlib.resources
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mocha_jax import run
from mocha_jax.encoders import (
  make_speech_encoder,
  make_text_encoders,
  sound,
)
from mocha_jax.export import components
from mocha_jax.export.components import (
  STEM,
  VERSION,
  copy,
  describe,
  write_json,
)
from mocha_jax.network import paths
from mocha_jax.weights import files, lora, movie_gen, tables, wan
from mocha_jax.weights.tables import Entry, Stored

PIPELINE = "pipeline_mocha"
_MOST_TEXTS = 3


def write(
  opened: run.Run,
  parameters: Mapping[str, Stored],
  folder: pathlib.Path,
  *,
  shard_bytes: int = files.SHARD_BYTES,
) -> None:
  """Write the folder.

  parameters: of the run, by dotted path; each is read when its turn comes.

  Raises:
    NotImplementedError: the run has a part that PyTorch is not told of.
  """
  given = opened.config.to_dict()
  texts = make_text_encoders(given["text_encoder"])
  if len(texts) > _MOST_TEXTS:
    raise NotImplementedError(
      f"config.text_encoder has {len(texts)} encoders: the pipeline in PyTorch "
      f"takes at most {_MOST_TEXTS}"
    )
  codec = opened.codec()
  parts = {
    "transformer": _transformer(opened, parameters, folder, shard_bytes),
    "scheduler": _scheduler(given["sample"], folder / "scheduler"),
    "vae": components.codec(codec, folder / "vae", shard_bytes),
    "speech_encoder": components.speech_encoder(
      make_speech_encoder(given["speech_encoder"]),
      folder / "speech_encoder",
      shard_bytes,
    ),
  }
  for i, encoder in enumerate(texts.values()):
    parts |= components.text_encoder(encoder, folder, i, shard_bytes)
  clip, sample = given["clip"], given["sample"]
  write_json(
    folder / "model_index.json",
    {
      "_class_name": [PIPELINE, "MochaPipeline"],
      "_diffusers_version": VERSION,
      **parts,
      "text_names": [*texts],
      "space": codec.space,
      "fps": clip["fps"],
      "num_frames": clip["frames"],
      "height": clip["height"],
      "width": clip["width"],
      "sample_rate": sound.RATE,
      "speech_guidance_scale": sample["speech_guidance"],
      "text_guidance_scale": sample["text_guidance"],
    },
  )
  copy(PIPELINE, folder)
  for name in ("prompts.py", "resampling.py"):
    ours = importlib.resources.files("mocha_jax") / name
    (folder / name).write_bytes(ours.read_bytes())


def _transformer(
  opened: run.Run,
  parameters: Mapping[str, Stored],
  folder: pathlib.Path,
  shard_bytes: int,
) -> list[str]:
  network = run.make_network(opened.config)
  model = opened.config.to_dict()["model"]
  backbone = make_backbone(model, network.shapes)
  beside = lora.entries(backbone.table, network)
  leaves, adapters = (
    tables.bind(table, network.shapes, network.letters)
    for table in (backbone.table, beside)
  )
  lost = paths(network.shapes).keys() - leaves.keys() - adapters.keys()
  if lost:
    raise NotImplementedError(
      f"{backbone.name} in PyTorch has no {', '.join(sorted(lost))}"
    )
  tensors, added = (
    {
      name: tensor
      for path, leaf in each.items()
      for name, tensor in leaf.their_tensors(parameters[path])
    }
    for each in (leaves, adapters)
  )
  where = folder / "transformer"
  files.write_sharded(where, tensors, stem=STEM, shard_bytes=shard_bytes)
  if added:
    files.write(
      folder / lora.FILE,
      {f"{lora.PREFIX}{name}": tensor for name, tensor in added.items()},
      lora.metadata(
        beside, rank=model["lora"]["rank"], alpha=model["lora"]["alpha"]
      ),
    )
  return describe(where, backbone.module, backbone.name, backbone.config)


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A transformer in PyTorch: its file, class and config, and our names."""

  module: str
  name: str
  config: Mapping[str, Any]
  table: Sequence[Entry]


def make_backbone(model: Mapping[str, Any], shapes: Any) -> Backbone:
  """Say what section `model`, and parameters of these shapes, become.

  Raises:
    NotImplementedError: PyTorch's file has no network like it.
  """
  config = {key: model[key] for key in _SIZES}
  config |= {f"speech_{key}": model["speech"][key] for key in _HEARD}
  if "name" in model and model["name"] == "wan":
    if model["width"] != model["heads"] * model["head"]:
      raise NotImplementedError(
        f"config.model.width = {model['width']} is not heads x head = "
        f"{model['heads']} x {model['head']}, as it is in diffusers' Wan"
      )
    return Backbone(
      "transformer_wan",
      "MochaWanTransformer3DModel",
      config,
      wan.diffusers(model["patch"], shapes),
    )
  config |= {key: model[key] for key in _OF_MOVIE_GEN}
  return Backbone(
    "transformer_movie_gen",
    "MochaMovieGenTransformer3DModel",
    config,
    movie_gen.entries(shapes),
  )


_SIZES = (
  *("layers", "ffn", "heads", "head", "channels", "patch", "ratio", "causal"),
  *("max_frames", "frozen_text", "small_text"),
)
_HEARD = (
  *("features", "context", "hidden"),
  *("attention", "edge", "order", "position"),
)
_OF_MOVIE_GEN = ("width", "max_rows", "max_columns", "noise_skip")


def _scheduler(sample: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
  config = {
    "num_inference_steps": sample["steps"],
    "schedule": sample["schedule"],
    "shift": sample["shift"],
  }
  return describe(
    folder,
    "scheduler_flow",
    "FlowEulerScheduler",
    config,
    file="scheduler_config.json",
  )
