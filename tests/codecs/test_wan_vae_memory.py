"""What the compiler for TPUs says of the codec at its real size."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

from mocha_jax import sharding, tpu_compiler
from mocha_jax.codecs import wan_vae
from mocha_jax.codecs.wan_network import Cuts, WanNetwork
from mocha_jax.compilation import topology
from mocha_jax.network import Network

FRAMES, HEIGHT, WIDTH = 129, 528, 976
# As in experiments/_codecs.py.
CUTS = Cuts(chunk=1, tile=0)


@pytest.fixture(scope="module")
def pod() -> Iterator[topology.Pod]:
  pytest.importorskip("libtpu", reason="the compiler for TPUs: mocha_jax[tpu]")
  tpu_compiler.prepare_environment()
  # Programs for machines that are not here cannot be read back.
  jax.config.update("jax_enable_compilation_cache", False)
  yield topology.parse("v5e-4", 1)
  jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["decode", "encode"])
def test_129_frames_of_976x528_fit_a_v5e_chip(pod, way):
  mesh = sharding.make_mesh(
    sharding.MeshConfig(1, 1, 1, 1, 1), topology.devices(pod)[:1]
  )
  where = sharding.replicated(mesh)

  def shaped(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  network = Network(lambda rngs: WanNetwork(96, dtype="bfloat16", rngs=rngs))
  params = jax.tree.map(
    lambda x: shaped(x.shape, jnp.bfloat16 if x.ndim > 1 else jnp.float32),
    network.shapes,
  )
  if way == "decode":
    grid = (1, 1 + FRAMES // 4, HEIGHT // 8, WIDTH // 8, 16)
    work, x = wan_vae.decoder(network, CUTS), shaped(grid, jnp.float32)
  else:
    size = (1, FRAMES, 3, HEIGHT, WIDTH)
    work, x = wan_vae.encoder(network, CUTS), shaped(size, jnp.uint8)
  used = jax.jit(work).lower(params, x).compile().memory_analysis()
  assert used is not None
  assert used.peak_memory_in_bytes <= pod.generation.hbm
