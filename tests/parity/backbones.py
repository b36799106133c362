"""A backbone of ours and the exported PyTorch of it, both small and random."""

import importlib
from typing import Any

import jax
import numpy as np
import torch

from mocha_jax.batch import Condition
from mocha_jax.export import diffusers_folder
from mocha_jax.models import make_config, make_model
from mocha_jax.network import Network, paths
from mocha_jax.training.trainable import TrainableConfig
from mocha_jax.weights import files, tables
from tests.small_wan import MODEL as WAN

SPEECH_TOKENS, TEXT_TOKENS = 17, 7
MOVIE_GEN = WAN | dict(
  name="movie_gen", max_rows=2, max_columns=3, noise_skip=True
)


def draw(seed, *shape):
  """Return normal numbers."""
  rng = np.random.default_rng(seed)
  return rng.standard_normal(shape).astype(np.float32)


def make_ours(model, preset: Any = "full"):
  """A network, and parameters none of which is where it starts."""
  config = make_config(model)
  network = Network(
    lambda rngs: make_model(config, rngs=rngs),
    TrainableConfig(preset).selection(has_adapters=config.lora.rank > 0),
  )
  start = jax.device_get(jax.jit(network.init)(jax.random.key(0)))
  rng = np.random.default_rng(7)
  drawn = lambda x: (
    x + 0.3 * rng.standard_normal(x.shape) / x.shape[-1] ** 0.5
  ).astype(np.float32)
  return network, jax.tree.map(drawn, start)


def to_torch(leaves, params):
  """Return the tensors of PyTorch that these leaves of a table name."""
  flat = paths(params)
  return {
    name: torch.from_numpy(tensor.read().copy())
    for path, leaf in leaves.items()
    for name, tensor in leaf.their_tensors(files.in_memory(flat[path]))
  }


def make_theirs(model, network, params):
  """Return the exported transformer; adapters are not in it."""
  backbone = diffusers_folder.make_backbone(model, network.shapes)
  module = importlib.import_module(
    f"mocha_jax.export.pytorch.{backbone.module}"
  )
  made = getattr(module, backbone.name)(**backbone.config)
  leaves = tables.bind(backbone.table, network.shapes, network.letters)
  made.load_state_dict(to_torch(leaves, params))
  return made.eval()


def conditions(model):
  """Nothing, speech alone, and text with speech: of one clip."""
  speech = draw(1, 1, SPEECH_TOKENS, 6)

  def make(speech, seed, length):
    text = {
      name: draw(seed, 1, TEXT_TOKENS, features)
      for name, features in model["frozen_text"].items()
    }
    if model["small_text"] is not None:
      rng = np.random.default_rng(seed)
      text["small_text"] = rng.integers(1, 40, (1, TEXT_TOKENS), np.int32)
    mask = np.arange(TEXT_TOKENS)[None] < length
    return Condition(speech, text, dict.fromkeys(text, mask))

  silence = np.zeros_like(speech)
  return make(silence, 2, 1), make(speech, 2, 1), make(speech, 3, 5)


def encode(theirs, *parts):
  """Encode conditions of clips, joined to a batch."""
  joined = jax.tree.map(lambda *x: torch.from_numpy(np.concatenate(x)), *parts)
  return theirs.encode(joined.speech, joined.text, joined.text_mask)
