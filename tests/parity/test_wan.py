"""Wan2.1's transformer, module by module, against that of diffusers."""

import copy
import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import (
  convert_wan_transformer_to_diffusers,
)
from diffusers.models.transformers import transformer_wan as theirs

from mocha_jax.batch import Condition
from mocha_jax.diffusion import sample
from mocha_jax.models import embed, wan
from mocha_jax.models.layers import WideNorm
from mocha_jax.network import Network, nested, paths
from mocha_jax.weights import files, tables
from mocha_jax.weights import wan as names
from tests.models.test_wan import CONFIG
from tests.parity.compare import assert_bfloat16_parity, assert_parity

# A layer of Wan2.1 1.3B.
REAL = dataclasses.replace(CONFIG, layers=1, width=1536, ffn=8960)
REAL = dataclasses.replace(REAL, heads=12, head=128)
FRAMES, ROWS, COLUMNS = 3, 2, 3  # Of patches.


@pytest.fixture(autouse=True, scope="module")
def one_thread():
  torch.set_num_threads(1)


def make_theirs(config: wan.WanConfig) -> theirs.WanTransformer3DModel:
  """Their model with every number random, of the size that training gives."""
  torch.manual_seed(0)
  model = theirs.WanTransformer3DModel(
    num_attention_heads=config.heads,
    attention_head_dim=config.head,
    in_channels=config.channels,
    out_channels=config.channels,
    text_dim=config.frozen_text["umt5"],
    ffn_dim=config.ffn,
    num_layers=config.layers,
  )
  with torch.no_grad():
    for name, x in model.named_parameters():
      if x.ndim == 1 and "norm" in name:
        x.copy_(1 + 0.2 * torch.randn(x.shape))
      elif x.ndim == 1:
        x.copy_(0.2 * torch.randn(x.shape))
      else:
        fan_in = x[0].numel()
        x.copy_(torch.randn(x.shape) / fan_in**0.5)
  return model.eval()


def make_ours(config: wan.WanConfig, model) -> tuple[Network, Any]:
  """Our network, and its parameters out of their model."""
  network = Network(lambda rngs: wan.Wan(config, rngs=rngs))
  state = {
    k: files.in_memory(v.detach().numpy())
    for k, v in model.state_dict().items()
  }
  plan = tables.plan(
    names.diffusers(config.patch, network.shapes),
    network.shapes,
    network.letters,
    state,
    fresh=names.FRESH,
  )
  fresh = paths(jax.device_get(network.init(jax.random.key(0))))
  for path, leaf in plan.leaves.items():
    fresh[path] = leaf.read_ours(state)
  return network, jax.tree.map(jnp.asarray, nested(fresh))


@functools.cache
def pair(config_name: str = "small"):
  config = {"small": CONFIG, "real": REAL}[config_name]
  model = make_theirs(config)
  network, params = make_ours(config, model)
  return config, model, network, params


def draw(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def clips(config: wan.WanConfig):
  """Latents, times, features of text and a condition that holds them."""
  x_t = draw(0, 2, FRAMES, 2 * ROWS, 2 * COLUMNS, config.channels)
  text = draw(1, 2, 5, config.frozen_text["umt5"])
  text[1, 3:] = 0  # As Wan pads.
  speech = draw(2, 2, config.ratio * (FRAMES - 1) + 1, config.speech.features)
  mask = np.ones((2, 5), bool)
  mask[1, 3:] = False
  condition = Condition(speech, {"umt5": text}, {"umt5": mask})
  condition = jax.tree.map(jnp.asarray, condition)
  return x_t, np.array([0.3, 0.85], np.float32), text, condition


def to_torch(x) -> torch.Tensor:
  return torch.from_numpy(np.array(x))


def run_theirs(model, x_t, t, text, dtype=torch.float32):
  """Return x1 - eps as their model has it, in our layout."""
  grid = to_torch(x_t).permute(0, 4, 1, 2, 3).to(dtype)
  time = 1000 * (1 - to_torch(t))
  out = model(grid, time, to_torch(text).to(dtype)).sample
  return -out.permute(0, 2, 3, 4, 1)


def test_every_key_has_its_place():
  config, model, network, _ = pair()
  state = model.state_dict()
  plan = tables.plan(
    names.diffusers(config.patch, network.shapes),
    network.shapes,
    network.letters,
    state,
    fresh=names.FRESH,
  )
  assert {n for leaf in plan.leaves.values() for n in leaf.names} == {*state}
  for path in plan.fresh:
    assert path.startswith(("speech", "blocks.speech"))


def leaves_of_theirs(config, network):
  """Our parameters that their model has, too, by path."""
  table = names.diffusers(config.patch, network.shapes)
  return {
    path: leaf
    for path, leaf in tables.bind(
      table, network.shapes, network.letters
    ).items()
    if not path.startswith(sum(names.FRESH, ()))
  }


def test_parameters_go_back_bit_by_bit():
  config, model, network, params = pair()
  leaves = leaves_of_theirs(config, network)
  state, flat = model.state_dict(), paths(params)
  for path, leaf in leaves.items():
    parameter = files.in_memory(np.asarray(flat[path]))
    for name, tensor in leaf.their_tensors(parameter):
      np.testing.assert_array_equal(tensor.read(), state[name].numpy())


def test_names_of_wans_own_files_are_those_that_diffusers_converts():
  config, model, network, params = pair()
  flat, own = paths(params), {}
  leaves = tables.bind(
    names.original(config.patch, network.shapes),
    network.shapes,
    network.letters,
  )
  for path, leaf in leaves.items():
    parameter = files.in_memory(np.asarray(flat[path]))
    own |= {name: x.read() for name, x in leaf.their_tensors(parameter)}
  converted = convert_wan_transformer_to_diffusers(own)
  state = model.state_dict()
  assert {*converted} == {*state}
  for name, tensor in converted.items():
    np.testing.assert_array_equal(tensor, state[name].numpy())


def test_rope():
  config, model, _, _ = pair("real")
  grid = torch.zeros(1, config.channels, FRAMES, 2 * ROWS, 2 * COLUMNS)
  cos, sin = model.rope(grid)
  ours = wan.rotation((FRAMES, ROWS, COLUMNS), config.head)
  assert_parity(ours[0], cos[0, :, 0, 0::2])
  assert_parity(ours[1], sin[0, :, 0, 1::2])


def test_rope_of_the_longest_clip():
  _, model, _, _ = pair("real")
  cos, _ = model.rope(torch.zeros(1, 16, 21, 60, 104))
  assert_parity(wan.rotation((21, 30, 52), 128)[0], cos[0, :, 0, 0::2])


def test_time():
  _, model, network, params = pair("real")
  t = np.linspace(0, 1, 9, dtype=np.float32)
  embedder = model.condition_embedder
  with torch.no_grad():
    features = embedder.timesteps_proj(1000 * (1 - to_torch(t)))
    want = embedder.time_embedder(features)
  module: Any = network.bind(params)
  assert_parity(module.time(jnp.asarray(1 - t)), want)


@pytest.mark.parametrize("size", ["small", "real"])
def test_text(size):
  config, model, network, params = pair(size)
  _, _, text, condition = clips(config)
  with torch.no_grad():
    want = model.condition_embedder.text_embedder(to_torch(text))
  module: Any = network.bind(params)
  assert_parity(module.text(condition)[0], want)


def test_norm_over_all_heads():
  _, model, _, params = pair()
  x = draw(3, 2, 7, CONFIG.heads, CONFIG.head)
  with torch.no_grad():
    want = model.blocks[0].attn2.norm_q(to_torch(x).flatten(2))
  norm = WideNorm(CONFIG.heads, CONFIG.head)
  norm.scale[...] = params["blocks"]["text_attention"]["query_norm"]["scale"][0]
  assert_parity(np.asarray(norm(jnp.asarray(x))).reshape(want.shape), want)


def lowered(module, dtype):
  """Return a copy in a type, but for what their pipeline keeps in float32."""
  kept = theirs.WanTransformer3DModel._keep_in_fp32_modules
  module = copy.deepcopy(module)
  for name, x in module.named_parameters():
    if not {*kept} & {*name.split(".")}:
      x.data = x.data.to(dtype)
  return module


def block_results(size: str, dtype: str):
  """What the first layer makes of the same, theirs and ours."""
  config, model, _, params = pair(size)
  tokens = FRAMES * ROWS * COLUMNS
  x, text = draw(4, 2, tokens, config.width), draw(5, 2, 5, config.width)
  shared = 0.5 * draw(6, 2, 6, config.width)
  low = getattr(torch, dtype)
  grid = torch.zeros(1, config.channels, FRAMES, 2 * ROWS, 2 * COLUMNS)
  block = lowered(model.blocks[0], low)
  with torch.no_grad():
    got = block(
      to_torch(x).to(low),
      to_torch(text).to(low),
      to_torch(shared).to(low),
      model.rope(grid),
    )
  one = jax.tree.map(lambda p: p[0], params["blocks"])
  network = Network(lambda rngs: wan.Block(config, rngs=rngs))
  module: Any = network.bind(one)
  ours = module(
    jnp.asarray(x, dtype),
    jnp.asarray(shared).reshape(2, 2, 3, -1),
    (jnp.asarray(text, dtype), None),
    jnp.zeros((2, config.ratio * (FRAMES - 1) + 1, config.width), dtype),
    FRAMES,
    wan.rotation((FRAMES, ROWS, COLUMNS), config.head),
  )
  return ours, got


@pytest.mark.parametrize("size", ["small", "real"])
def test_layer(size):
  assert_parity(*block_results(size, "float32"))


@pytest.mark.parametrize("size", ["small", "real"])
def test_layer_in_bfloat16(size):
  _, exact = block_results(size, "float32")
  assert_bfloat16_parity(*block_results(size, "bfloat16"), exact)


def test_whole_model():
  config, model, network, params = pair()
  x_t, t, text, condition = clips(config)
  with torch.no_grad():
    want = run_theirs(model, x_t, t, text)
  module: Any = network.bind(params)
  assert_parity(module(jnp.asarray(x_t), jnp.asarray(t), condition), want)


def test_whole_model_in_bfloat16():
  config, model, _, params = pair()
  x_t, t, text, condition = clips(config)
  low = lowered(model, torch.bfloat16)
  with torch.no_grad():
    exact = run_theirs(model, x_t, t, text)
    want = run_theirs(low, x_t, t, text, torch.bfloat16)
  config = dataclasses.replace(config, dtype="bfloat16")
  network = Network(lambda rngs: wan.Wan(config, rngs=rngs))
  module: Any = network.bind(params)
  got = module(jnp.asarray(x_t), jnp.asarray(t), condition)
  assert_bfloat16_parity(got, want, exact)


@pytest.mark.parametrize("times", [(0.95, 0.98), (0.02, 0.3), (0.6, 0.85)])
def test_gradients_of_all_parameters(times, monkeypatch):
  config, model, network, params = pair()
  x_t, _, text, condition = clips(config)
  t = np.array(times, np.float32)
  if min(times) < 0.9:
    # Sinusoids of angles near 1,000 are off by 5e-5 in float32, theirs and
    # ours, each elsewhere; so theirs is given ours.
    features = to_torch(np.asarray(embed.sinusoids(jnp.asarray(1 - t))))
    monkeypatch.setattr(
      model.condition_embedder.timesteps_proj, "forward", lambda _: features
    )
  weights = draw(7, *x_t.shape)
  model.zero_grad()
  (run_theirs(model, x_t, t, text) * to_torch(weights)).sum().backward()

  def scalar(params):
    module: Any = network.bind(params)
    out = module(jnp.asarray(x_t), jnp.asarray(t), condition)
    return jnp.sum(out * weights)

  got = paths(jax.grad(scalar)(params))
  leaves = leaves_of_theirs(config, network)
  grads = {
    k: files.in_memory(x.grad.numpy()) for k, x in model.named_parameters()
  }
  for path, leaf in leaves.items():
    want = leaf.read_ours(grads)
    assert_parity({path: got[path]}, {path: want})


def test_ten_steps_of_sampling():
  config, model, network, params = pair()
  noise, _, text, condition = clips(config)
  at = sample.linear_quadratic(10)
  module: Any = network.bind(params)
  ours = sample.euler(module, jnp.asarray(noise), condition, at)
  x = noise.copy()
  with torch.no_grad():
    for start, end in itertools.pairwise(at):
      t = np.full(2, start, np.float32)
      x = x + (end - start) * run_theirs(model, x, t, text).numpy()
      x = x.astype(np.float32)
  assert_parity(ours, x)


def test_parameters_of_both_sizes_are_as_many_as_theirs():
  with torch.device("meta"):
    for sizes in (
      dict(num_attention_heads=12, ffn_dim=8960, num_layers=30),
      dict(num_attention_heads=40, ffn_dim=13_824, num_layers=40),
    ):
      model = theirs.WanTransformer3DModel(**sizes)
      config = dataclasses.replace(
        CONFIG,
        layers=sizes["num_layers"],
        width=128 * sizes["num_attention_heads"],
        ffn=sizes["ffn_dim"],
        heads=sizes["num_attention_heads"],
        head=128,
        channels=16,
        frozen_text={"umt5": 4096},
      )
      network = Network(lambda rngs, c=config: wan.Wan(c, rngs=rngs))
      tables.plan(
        names.diffusers(2, network.shapes),
        network.shapes,
        network.letters,
        model.state_dict(),
        fresh=names.FRESH,
      )
