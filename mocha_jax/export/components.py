"""Codecs and encoders as components of a pipeline of diffusers.

Each is a folder with a config, weights, and a file of PyTorch where diffusers
and transformers have no class of their own.
"""

import dataclasses
import importlib.resources
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mocha_jax.codecs import wan_network
from mocha_jax.codecs.linear import LinearCodec
from mocha_jax.codecs.wan_vae import WanVAE
from mocha_jax.encoders.clip_text import ClipTextEncoder
from mocha_jax.encoders.frozen import Frozen, FrozenText
from mocha_jax.encoders.interpolate import interpolate
from mocha_jax.encoders.log_mel import LogMel
from mocha_jax.encoders.small_text import SmallText
from mocha_jax.encoders.t5 import T5Text
from mocha_jax.encoders.tokenizers import BYTES
from mocha_jax.encoders.wav2vec2 import Wav2Vec2Speech
from mocha_jax.network import Network, paths
from mocha_jax.weights import files, t5, tables, wan_vae
from mocha_jax.weights.tables import Entry, Stored

VERSION = "0.42.1"  # Of diffusers, whose conventions these are.
STEM = "diffusion_pytorch_model"
_TRANSFORMERS_STEM = "model"
_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"


def codec(codec: Any, folder: pathlib.Path, shard_bytes: int) -> list[str]:
  """Write the codec; return how the pipeline's index calls it.

  Raises:
    NotImplementedError: PyTorch is not told of it.
  """
  if isinstance(codec, WanVAE):
    return _wan_vae(codec, folder, shard_bytes)
  if not isinstance(codec, LinearCodec):
    raise _untold("codec", codec)
  analysis, offset = codec.analysis
  synthesis, mean = codec.synthesis
  tensors = {
    "encoder.weight": analysis.T,
    "encoder.bias": offset,
    "decoder.weight": synthesis.T,
    "decoder.bias": mean,
  }
  _write_arrays(folder, tensors)
  names = ("time", "space", "channels", "causal")
  config = {name: getattr(codec, name) for name in names}
  return describe(folder, "codec_linear", "LinearCodec", config)


def _wan_vae(
  codec: WanVAE, folder: pathlib.Path, shard_bytes: int
) -> list[str]:
  parameters = {
    path: files.in_memory(x) for path, x in paths(codec.params).items()
  }
  tensors = _theirs(codec.network, wan_vae.entries(()), parameters)
  files.write_sharded(folder, tensors, stem=STEM, shard_bytes=shard_bytes)
  name = "AutoencoderKLWan"
  config = {
    "base_dim": codec.config.width,
    "z_dim": codec.channels,
    "latents_mean": wan_network.MEAN,
    "latents_std": wan_network.STD,
  }
  return describe(folder, None, name, config)


def speech_encoder(
  encoder: Any, folder: pathlib.Path, shard_bytes: int
) -> list[str]:
  """Write the speech encoder; return how the pipeline's index calls it.

  Raises:
    NotImplementedError: PyTorch is not told of it.
    ValueError: it has no weights, or they are of another network.
  """
  if isinstance(encoder, Wav2Vec2Speech):
    return _wav2vec2(encoder, folder, shard_bytes)
  if not isinstance(encoder, LogMel):
    raise _untold("speech encoder", encoder)
  _write_arrays(folder, {"filters": encoder.filters})
  name = "LogMelSpeechEncoder"
  return describe(folder, "speech_log_mel", name, encoder.constants)


def _wav2vec2(
  encoder: Wav2Vec2Speech, folder: pathlib.Path, shard_bytes: int
) -> list[str]:
  sizes = encoder.config.sizes
  _write_transformers(_frozen(encoder), folder, shard_bytes)
  config = {
    "model_type": "wav2vec2",
    "hidden_size": sizes.width,
    "num_hidden_layers": sizes.layers,
    "num_attention_heads": sizes.heads,
    "intermediate_size": sizes.ffn,
    "conv_dim": [sizes.channels] * len(sizes.kernels),
    "conv_kernel": sizes.kernels,
    "conv_stride": sizes.strides,
    "num_feat_extract_layers": len(sizes.kernels),
    "num_conv_pos_embeddings": sizes.position_kernel,
    "num_conv_pos_embedding_groups": sizes.position_groups,
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,  # Else there is a vector that nothing uses.
    "interpolate": encoder.config.interpolate,
  }
  return describe(folder, "speech_wav2vec2", "Wav2Vec2SpeechEncoder", config)


def text_encoder(
  encoder: Any, folder: pathlib.Path, place: int, shard_bytes: int
) -> dict[str, list[str]]:
  """Write a tokenizer and, if it is no part of the backbone, its encoder.

  place: among the text encoders, from 0.

  Returns:
    How the pipeline's index calls them.

  Raises:
    NotImplementedError: PyTorch is not told of it.
    ValueError: it has no weights, or they are of another network.
  """
  after = f"_{place + 1}" if place else ""
  tokenizer, model = f"tokenizer{after}", f"text_encoder{after}"
  if isinstance(encoder, SmallText):
    given = dataclasses.asdict(encoder.config)
    config = {key: given[key] for key in ("unit", "vocabulary", "length")}
    name = ("tokenizer_hashed", "HashedTokenizer")
    where = folder / tokenizer
    return {tokenizer: describe(where, *name, config, file=_TOKENIZER)}
  if isinstance(encoder, T5Text):
    index = _t5(encoder, folder / model, shard_bytes)
  elif isinstance(encoder, ClipTextEncoder):
    index = _clip_text(encoder, folder / model, shard_bytes)
  else:
    raise _untold("text encoder", encoder)
  return {tokenizer: _tokenizer(encoder, folder / tokenizer), model: index}


def _tokenizer(encoder: FrozenText, folder: pathlib.Path) -> list[str]:
  given = encoder.config
  config = {
    "tokenizer": BYTES if given.tokenizer == BYTES else "tokenizer.json",
    "length": given.length,
    "cut": given.cut,
  }
  name = ("tokenizer_file", "FileTokenizer")
  index = describe(folder, *name, config, file=_TOKENIZER)
  if given.tokenizer != BYTES:
    shutil.copyfile(given.tokenizer, folder / "tokenizer.json")
  return index


def _t5(encoder: T5Text, folder: pathlib.Path, shard_bytes: int) -> list[str]:
  sizes = encoder.config.sizes
  _write_transformers(_frozen(encoder), folder, shard_bytes)
  per_layer = sizes.positions == "per_layer"
  config = {
    "model_type": "umt5" if per_layer else "t5",
    "d_model": sizes.width,
    "d_kv": sizes.head,
    "d_ff": sizes.ffn,
    "num_layers": sizes.layers,
    "num_heads": sizes.heads,
    "vocab_size": sizes.vocabulary,
    "relative_attention_num_buckets": sizes.buckets,
    "relative_attention_max_distance": sizes.distance,
    "feed_forward_proj": t5.GATED[sizes.activation],
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.0,
  }
  name = "UMT5EncoderModel" if per_layer else "T5EncoderModel"
  return describe(folder, None, name, config, library="transformers")


def _clip_text(
  encoder: ClipTextEncoder, folder: pathlib.Path, shard_bytes: int
) -> list[str]:
  """Write CLIP with as many positions as tokens, stretched as the encoder's."""
  sizes = encoder.config.sizes
  tensors = _frozen(encoder)
  positions = max(sizes.positions, encoder.length)
  if positions > sizes.positions:
    name = "text_model.embeddings.position_embedding.weight"
    rows = interpolate(jnp.asarray(tensors[name].read())[None], positions)[0]
    tensors[name] = files.in_memory(np.asarray(rows))
  _write_transformers(tensors, folder, shard_bytes)
  config = {
    "model_type": "clip_text_model",
    "hidden_size": sizes.width,
    "intermediate_size": sizes.ffn,
    "num_hidden_layers": sizes.layers,
    "num_attention_heads": sizes.heads,
    "vocab_size": sizes.vocabulary,
    "max_position_embeddings": positions,
    "hidden_act": sizes.activation,
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
  }
  return describe(folder, None, "CLIPTextModel", config, library="transformers")


def _write_transformers(
  tensors: Mapping[str, Stored], folder: pathlib.Path, shard_bytes: int
) -> None:
  """Write weights, a tensor at a time, as transformers calls their files."""
  files.write_sharded(
    folder, tensors, stem=_TRANSFORMERS_STEM, shard_bytes=shard_bytes
  )


def _frozen(encoder: Frozen) -> dict[str, Stored]:
  """Return the weights of an encoder by the names of transformers."""
  plan, tensors = encoder.open_files()
  parameters = {
    path: leaf.our_parameter(tensors, encoder.config.dtype)
    for path, leaf in plan.leaves.items()
  }
  entries, _ = encoder.table(())
  return _theirs(encoder.network, entries, parameters)


def _theirs(
  network: Network, entries: Sequence[Entry], parameters: Mapping[str, Stored]
) -> dict[str, Stored]:
  """Return the foreign tensors of all parameters, by name."""
  leaves = tables.bind(entries, network.shapes, network.letters)
  assert leaves.keys() == parameters.keys()
  return {
    name: tensor
    for path, leaf in leaves.items()
    for name, tensor in leaf.their_tensors(parameters[path])
  }


def _untold(what: str, part: Any) -> NotImplementedError:
  return NotImplementedError(
    f"the {what} {type(part).__name__} is not exported to PyTorch"
  )


def _write_arrays(
  folder: pathlib.Path, arrays: Mapping[str, np.ndarray]
) -> None:
  tensors = {
    name: files.in_memory(np.ascontiguousarray(array))
    for name, array in arrays.items()
  }
  files.write_sharded(folder, tensors, stem=STEM)


def describe(
  folder: pathlib.Path,
  module: str | None,
  name: str,
  config: Mapping[str, Any],
  *,
  file: str = _CONFIG,
  library: str = "diffusers",
) -> list[str]:
  """Write a component's config and source; return how the index calls it.

  module: the file of PyTorch; None if the class `name` is the library's.
  """
  folder.mkdir(parents=True, exist_ok=True)
  head = {"_class_name": name, "_diffusers_version": VERSION}
  if "model_type" in config:
    head = {"architectures": [name]}
  write_json(folder / file, head | dict(config))
  if module is None:
    return [library, name]
  copy(module, folder)
  return [module, name]


def copy(module: str, folder: pathlib.Path) -> None:
  """Put a file of PyTorch into a folder."""
  source = importlib.resources.files("mocha_jax.export.pytorch")
  code = (source / f"{module}.py").read_bytes()
  (folder / f"{module}.py").write_bytes(code)


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Write a config."""
  path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
