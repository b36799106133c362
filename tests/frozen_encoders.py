"""Encoders that are trained elsewhere, small, with files of random weights."""

import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from mocha_jax import encoders
from mocha_jax.network import paths
from mocha_jax.weights import files, tables

WAV2VEC2 = dict(
  name="wav2vec2",
  sizes=dict(
    layers=2,
    width=12,
    ffn=20,
    heads=3,
    channels=8,
    kernels=(10, 3, 3, 3, 3, 2, 2),
    strides=(5, 2, 2, 2, 2, 2, 2),
    position_kernel=6,
    position_groups=4,
  ),
  interpolate="before",
  weights="",
  dtype="float32",
  batch_size=2,
)
_TEXT: dict[str, Any] = dict(
  weights="",
  tokenizer="bytes",
  length=24,
  cut=False,
  dtype="float32",
  batch_size=2,
)
_T5 = dict(
  layers=2,
  width=16,
  ffn=24,
  heads=2,
  head=6,
  vocabulary=270,
  buckets=8,
  distance=16,
)
UMT5 = _TEXT | dict(
  name="umt5",
  sizes=_T5 | dict(positions="per_layer", activation="gelu_tanh"),
)
BYT5 = _TEXT | dict(
  name="byt5", sizes=_T5 | dict(positions="shared", activation="gelu_tanh")
)
UL2 = _TEXT | dict(
  name="ul2", sizes=_T5 | dict(positions="shared", activation="silu")
)
CLIP = _TEXT | dict(
  name="clip_text",
  sizes=dict(
    layers=2,
    width=16,
    ffn=24,
    heads=2,
    vocabulary=270,
    positions=10,
    activation="quick_gelu",
  ),
)


def with_weights(section: dict[str, Any], folder: pathlib.Path) -> dict:
  """Write random weights under transformers' names; return the section."""
  encoder: Any = make(section)
  network = encoder.network
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(0.0, 0.5, x.shape).astype(np.float32), network.shapes
  )
  flat = paths(params)
  leaves = tables.bind(encoder.table([])[0], network.shapes, network.letters)
  assert leaves.keys() == flat.keys()
  tensors = {
    name: tensor
    for path, leaf in leaves.items()
    for name, tensor in leaf.their_tensors(files.in_memory(flat[path]))
  }
  folder.mkdir(parents=True, exist_ok=True)
  files.write_sharded(folder, tensors, stem="model", shard_bytes=10_000)
  return section | dict(weights=str(folder))


def write_tokenizer(path: pathlib.Path, words: Iterable[str]) -> str:
  """Write a tokenizer.json of words, and an end, that would pad and cut."""
  special = ("<pad>", "<end>", "<unknown>")
  ids = {word: i for i, word in enumerate([*special, *sorted({*words})])}
  made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<unknown>"))
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  made.post_processor = processors.TemplateProcessing(
    single="$A <end>", special_tokens=[("<end>", ids["<end>"])]
  )
  made.enable_padding(length=40)
  made.enable_truncation(5)
  made.save(str(path))
  return str(path)


def make(section: dict[str, Any]) -> Any:
  """Make the encoder that a section describes."""
  if section["name"] == "wav2vec2":
    return encoders.make_speech_encoder(section)
  return encoders.make_text_encoders(section)[section["name"]]
