import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders import single_file_utils
from diffusers.models.autoencoders import autoencoder_kl_wan as theirs

from mocha_jax.codecs import causal, wan_network, wan_vae
from mocha_jax.codecs.causal import Cache
from mocha_jax.network import Network, nested
from mocha_jax.weights import files, tables
from mocha_jax.weights import wan_vae as names
from tests import numerics, wan_vae_files
from tests.parity import compare

WIDTH = 8
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)


def stir(module: torch.nn.Module) -> torch.nn.Module:
  """Make norms and biases matter."""
  torch.manual_seed(0)
  with torch.no_grad():
    for name, x in module.named_parameters():
      if name.endswith("gamma"):
        x.copy_(1 + 0.2 * torch.randn_like(x))
      elif name.endswith("bias"):
        x.copy_(0.1 * torch.randn_like(x))
  return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae():
  return stir(AutoencoderKLWan(base_dim=WIDTH))


def part_of(build, module, ours: str, others: str):
  """Return a module of ours and its parameters, as their module has them."""
  network = Network(build)
  tensors = {
    name: files.in_memory(x.numpy()) for name, x in module.state_dict().items()
  }
  entries = [
    tables.Entry(
      entry.ours.removeprefix(ours),
      entry.theirs.removeprefix(others),
      entry.layout,
    )
    for entry in names.entries([])
    if entry.ours.startswith(ours)
  ]
  plan = tables.plan(entries, network.shapes, network.letters, tensors)
  flat = {path: leaf.read_ours(tensors) for path, leaf in plan.leaves.items()}
  return network, nested(flat)


# Theirs, its name in a whole VAE, ours and its path, channels, size of chunks.
PARTS = dict(
  convolution=(
    lambda rngs: causal.CausalConv(3, WIDTH, time=3, space=3, rngs=rngs),
    "encoder.conv.",
    "encoder.conv_in",
    3,
    4,
  ),
  norm=(
    lambda rngs: causal.Norm(4 * WIDTH),
    "encoder.head.norm.",
    "encoder.norm_out",
    4 * WIDTH,
    4,
  ),
  residual=(
    lambda rngs: causal.Residual(WIDTH, 2 * WIDTH, rngs=rngs),
    "encoder.levels.1.blocks.0.",
    "encoder.down_blocks.3",
    WIDTH,
    4,
  ),
  attention=(
    lambda rngs: causal.Attention(4 * WIDTH, rngs=rngs),
    "encoder.middle.attention.",
    "encoder.mid_block.attentions.0",
    4 * WIDTH,
    4,
  ),
  down=(
    lambda rngs: causal.Down(WIDTH, time=False, rngs=rngs),
    "encoder.levels.0.resample.",
    "encoder.down_blocks.2",
    WIDTH,
    4,
  ),
  down_in_time=(
    lambda rngs: causal.Down(2 * WIDTH, time=True, rngs=rngs),
    "encoder.levels.1.resample.",
    "encoder.down_blocks.5",
    2 * WIDTH,
    4,
  ),
  up=(
    lambda rngs: causal.Up(2 * WIDTH, time=False, rngs=rngs),
    "decoder.levels.2.resample.",
    "decoder.up_blocks.2.upsamplers.0",
    2 * WIDTH,
    1,
  ),
  up_in_time=(
    lambda rngs: causal.Up(4 * WIDTH, time=True, rngs=rngs),
    "decoder.levels.0.resample.",
    "decoder.up_blocks.0.upsamplers.0",
    4 * WIDTH,
    1,
  ),
)
STATELESS = (causal.Norm, causal.Attention)


def run_ours(network, params, x, size):
  """Run a module of ours over frame 0 and then over chunks."""

  @jax.jit
  def run(params, x):
    module = network.bind(params)

    def step(start, length, past):
      part = jax.lax.dynamic_slice_in_dim(x, start, length, 1)
      if isinstance(module, STATELESS):
        return module(part), ()
      cache = Cache(past)
      return module(part, cache), cache.kept

    return wan_network.over_time(step, x.shape[1], size)

  return run(params, x)


def run_theirs(module, x, size, dtype):
  """Run a module of theirs in the same way, on "B f h w c"."""
  module = copy.deepcopy(module).to(DTYPES[dtype])
  x = torch.from_numpy(x).to(DTYPES[dtype]).permute(0, 4, 1, 2, 3)
  if isinstance(module, theirs.WanCausalConv3d | theirs.WanRMS_norm):
    made = [module(x)]  # The whole clip at once.
  elif isinstance(module, theirs.WanAttentionBlock):
    made = [module(x)]
  else:
    cache, made = [None] * 16, []
    for part in x.split([1, *[size] * ((x.shape[2] - 1) // size)], dim=2):
      made.append(module(part, feat_cache=cache, feat_idx=[0]))
  return torch.cat(made, 2).permute(0, 2, 3, 4, 1)


def compare_modules(network, params, module, x, size):
  """Hold a module of ours to theirs, in both types."""
  exact = run_theirs(module, x, size, "float32")
  compare.assert_parity(run_ours(network, params, x, size), exact)
  ours = run_ours(network, params, jnp.asarray(x, jnp.bfloat16), size)
  assert ours.dtype == jnp.bfloat16
  rounded = x.astype(jnp.bfloat16).astype(np.float32)
  rough = run_theirs(module, rounded, size, "bfloat16")
  compare.assert_bfloat16_parity(ours, rough, exact)


def draw(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("part", PARTS)
def test_part(vae, part):
  build, ours, name, channels, size = PARTS[part]
  module = vae.get_submodule(name)
  network, params = part_of(build, module, ours, name + ".")
  compare_modules(network, params, module, draw(1, 9, 4, 6, channels), size)


def test_level_of_real_size():
  module = stir(theirs.WanUpBlock(384, 384, 2, upsample_mode="upsample3d"))

  def build(rngs):
    up = causal.Up(384, time=True, rngs=rngs)
    return wan_network.Level(384, 384, 3, up, rngs=rngs)

  network, params = part_of(
    build, module, "decoder.levels.0.", "decoder.up_blocks.0."
  )
  compare_modules(network, params, module, draw(1, 3, 3, 4, 384), 1)


@pytest.fixture(scope="module")
def network_and_params(vae):
  build = lambda dtype: Network(
    lambda rngs: wan_network.WanNetwork(WIDTH, dtype=dtype, rngs=rngs)
  )
  _, params = part_of(build("float32")._build, vae, "", "")
  return {dtype: build(dtype) for dtype in DTYPES}, params


CUTS = wan_network.Cuts(chunk=1, tile=0)
MEAN, STD = np.asarray(wan_network.MEAN), np.asarray(wan_network.STD)


@pytest.fixture(scope="module")
def frames():
  return np.tanh(draw(1, 9, 16, 24, 3))


def test_encoder(vae, network_and_params, frames):
  networks, params = network_and_params

  def ours(dtype):
    encode = lambda p, x: networks[dtype].bind(p).encode(x, CUTS)
    return np.asarray(jax.jit(encode)(params, frames))

  def others(dtype):
    x = torch.from_numpy(frames).to(DTYPES[dtype]).permute(0, 4, 1, 2, 3)
    model = copy.deepcopy(vae).to(DTYPES[dtype])
    mean = model.encode(x).latent_dist.mode()
    mean = compare.to_numpy(mean.permute(0, 2, 3, 4, 1))
    return (mean - vae.config.latents_mean) / vae.config.latents_std

  compare.assert_parity(ours("float32"), others("float32"))
  compare.assert_bfloat16_parity(
    ours("bfloat16"), others("bfloat16"), others("float32")
  )


def test_decoder(vae, network_and_params):
  networks, params = network_and_params
  latents = draw(1, 3, 2, 3, 16)

  def ours(dtype):
    decode = lambda p, z: (
      networks[dtype].bind(p).decode(z, CUTS, dtype="float32")
    )
    return np.asarray(jax.jit(decode)(params, latents))

  def others(dtype):
    z = torch.from_numpy((latents * STD + MEAN).astype(np.float32))
    z = z.to(DTYPES[dtype]).permute(0, 4, 1, 2, 3)
    shown = copy.deepcopy(vae).to(DTYPES[dtype]).decode(z).sample
    return shown.permute(0, 2, 3, 4, 1)

  compare.assert_parity(ours("float32"), others("float32"))
  compare.assert_bfloat16_parity(
    ours("bfloat16"), others("bfloat16"), others("float32")
  )


def test_statistics_are_those_of_diffusers(vae):
  assert tuple(vae.config.latents_mean) == wan_network.MEAN
  assert tuple(vae.config.latents_std) == wan_network.STD


def test_names_are_those_of_diffusers_and_of_the_released_file(tmp_path):
  params = wan_vae_files.make_params()
  by_kind = {
    kind: wan_vae_files.tensors(params, kind) for kind in wan_vae_files.KINDS
  }
  released = {k: torch.from_numpy(x) for k, x in by_kind["released"].items()}
  torch.save(released, tmp_path / "Wan2.1_VAE.pth")
  config = wan_vae_files.make_config(tmp_path / "Wan2.1_VAE.pth")
  numerics.assert_same(wan_vae.open_weights(config).params, params)
  converted = single_file_utils.convert_wan_vae_to_diffusers({**released})
  numerics.assert_same(
    {name: x.numpy() for name, x in converted.items()}, by_kind["diffusers"]
  )
  small = AutoencoderKLWan(base_dim=wan_vae_files.WIDTH)
  assert small.state_dict().keys() == by_kind["diffusers"].keys()
  small.save_pretrained(tmp_path / "vae")
  config = wan_vae_files.make_config(tmp_path / "vae")
  wan_vae.open_weights(config)
