"""Gradients of what the presets train, against the exported PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mocha_jax.export import diffusers_folder
from mocha_jax.models import make_config
from mocha_jax.network import joined, paths
from mocha_jax.training.trainable import SPEECH
from mocha_jax.weights import files, lora, tables
from tests.parity import backbones, compare

# Sinusoids of angles near 1,000 are off by 5e-5 in float32, theirs and ours,
# each elsewhere. Wan's angles are 1000 (1 - t), Movie Gen's 1000 t.
MODELS = {
  "wan": (backbones.WAN, 0.95),
  "movie_gen": (backbones.MOVIE_GEN, 0.05),
}
HEARING = {
  "window_none_clip": dict(order="none", edge="clip"),
  "window_slots_shift": dict(order="slots", edge="shift"),
  "window_rope_clip": dict(order="rope", edge="clip"),
  "global_none": dict(attention="global", position="none"),
  "global_sinusoidal": dict(attention="global", position="sinusoidal"),
  "global_learned": dict(attention="global", position="learned"),
  "global_rope": dict(attention="global", position="rope"),
}
ADAPTERS = dict(
  rank=2,
  alpha=3.0,
  targets=(
    *("self_attention.query", "self_attention.key", "self_attention.out"),
    *("text_attention.query", "text_attention.value", "text_attention.out"),
  ),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
  torch.set_num_threads(1)


def make_inputs(model, time):
  """Return noised latents, their time, a condition, and weights of outputs."""
  x = backbones.draw(5, 1, 5, 4, 6, 4)
  weights = backbones.draw(6, *x.shape)
  condition = backbones.conditions(model)[2]
  return x, np.array([time], np.float32), condition, weights


def our_gradients(network, params, inputs):
  """Return those of what is trained, by path."""
  x, t, condition, weights = jax.tree.map(jnp.asarray, inputs)

  def scalar(trained, params):
    predict = network.bind(joined(params, trained))
    return jnp.sum(predict(x, t, condition) * weights)

  return paths(jax.jit(jax.grad(scalar))(network.trained(params), params))


def their_gradients(theirs, inputs, changed):
  """Fill those of all parameters; `changed` takes the place of some."""
  x, t, condition, weights = inputs
  made = torch.func.functional_call(
    theirs,
    changed,
    (
      torch.from_numpy(x).movedim(-1, 1),
      torch.from_numpy(t),
      backbones.encode(theirs, condition),
    ),
  )
  (made.sample.movedim(1, -1) * torch.from_numpy(weights)).sum().backward()


def merged(theirs, adapters, scale):
  """Return kernels W + scale * B A, by name; adapters: A and B by name."""
  kernels = {}
  for name, down in adapters.items():
    if name.endswith(".lora_A.weight"):
      stem = name.removesuffix(".lora_A.weight")
      up = adapters[f"{stem}.lora_B.weight"]
      kernel = theirs.get_parameter(f"{stem}.weight")
      kernels[f"{stem}.weight"] = kernel + scale * up @ down
  return kernels


def assert_alike(model, time, preset):
  """Hold the gradients of all that a preset trains; return their paths."""
  network, params = backbones.make_ours(model, preset)
  theirs = backbones.make_theirs(model, network, params)
  table = diffusers_folder.make_backbone(model, network.shapes).table
  leaves, beside = (
    tables.bind(entries, network.shapes, network.letters)
    for entries in (table, lora.entries(table, network))
  )
  adapters = {
    name: tensor.requires_grad_()
    for name, tensor in backbones.to_torch(beside, params).items()
  }
  config = make_config(model).lora
  changed = merged(theirs, adapters, config.scale) if adapters else {}
  inputs = make_inputs(model, time)
  their_gradients(theirs, inputs, changed)
  held = dict(theirs.named_parameters()) | adapters
  gradients = our_gradients(network, params, inputs)
  for path, got in gradients.items():
    leaf = (leaves | beside)[path]
    want = leaf.read_ours(
      {name: files.in_memory(held[name].grad.numpy()) for name in leaf.names}
    )
    assert np.any(want), f"{path}: nothing to compare"
    compare.assert_parity({path: got}, {path: want})
  return gradients.keys()


@pytest.mark.parametrize("hearing", HEARING)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_the_speech_path(name, hearing):
  model, time = MODELS[name]
  model = model | dict(speech=model["speech"] | HEARING[hearing])
  trained = assert_alike(model, time, "speech")
  assert all(path.startswith(SPEECH) for path in trained)
  parts = {path.rpartition(".")[0] for path in trained}
  assert parts >= {*SPEECH[1:], "speech.first", "speech.second"}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_adapters(name):
  model, time = MODELS[name]
  trained = assert_alike(model | dict(lora=ADAPTERS), time, "speech+lora")
  adapted = {path for path in trained if ".lora." in path}
  assert len(adapted) == 2 * len(ADAPTERS["targets"])


@pytest.mark.parametrize("preset", ["speech+self_attention", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_more_than_hears(name, preset):
  model, time = MODELS[name]
  trained = assert_alike(model, time, preset)
  assert not all(path.startswith(SPEECH) for path in trained)
