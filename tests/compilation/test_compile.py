"""Reading what the real compiler for TPUs makes, where it is installed."""

import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

from mocha_jax import sharding, tpu_compiler
from mocha_jax.compilation import hlo, network, roofline, topology

TOKENS, WIDTH, HIDDEN, LAYERS = 4096, 512, 2048, 3


@pytest.fixture(scope="module")
def pod() -> Iterator[topology.Pod]:
  pytest.importorskip("libtpu", reason="the compiler for TPUs: mocha_jax[tpu]")
  tpu_compiler.prepare_environment()
  # Programs for machines that are not here cannot be read back.
  jax.config.update("jax_enable_compilation_cache", False)
  yield topology.parse("v5p-8", 1)
  jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture(scope="module")
def mesh(pod):
  config = sharding.MeshConfig(data=1, fsdp=4, tensor=1, context=1, slice=1)
  return sharding.make_mesh(config, topology.devices(pod))


def compile_layers(mesh, layers: int, *, unroll: bool):
  """Compile the gradients of a network whose weights are split over 4 chips."""

  def loss(weights, x):
    def layer(x, w):
      with jax.named_scope("mlp"):
        h = sharding.constrain(jax.nn.silu(x @ w[0]), "B T F")
        return sharding.constrain(x + h @ w[1], "B T D"), None

    layer = jax.checkpoint(layer, prevent_cse=unroll)
    x = jax.lax.scan(layer, x, weights, unroll=unroll)[0]
    return jnp.mean(x**2)

  def shaped(letters, *dims):
    where = sharding.parameter_sharding(mesh, letters, dims)
    return jax.ShapeDtypeStruct(dims, jnp.bfloat16, sharding=where)

  weights = (
    shaped("D F", layers, WIDTH, HIDDEN),
    shaped("F D", layers, HIDDEN, WIDTH),
  )
  x = jax.ShapeDtypeStruct(
    (4, TOKENS, WIDTH), jnp.bfloat16, sharding=sharding.batch_sharding(mesh)
  )
  with jax.set_mesh(mesh):
    return jax.jit(jax.grad(loss)).lower(weights, x).compile()


def predict(compiled, mesh, pod) -> roofline.Time:
  return roofline.predict(
    hlo.parse(compiled.as_text()),
    pod.generation,
    network.Wiring(mesh, pod),
    pathlib.Path("nowhere"),
  )


@pytest.fixture(scope="module")
def time(mesh, pod) -> roofline.Time:
  return predict(compile_layers(mesh, LAYERS, unroll=False), mesh, pod)


def test_operations_of_every_layer_count(time):
  # 2 products forward, 1 again (the last is not needed), 4 backward.
  product = 2 * TOKENS * WIDTH * HIDDEN
  flops = {key: work.flops for key, work in time.work.items() if work.flops}
  assert flops == {
    ("mlp", "forward"): 2 * product * LAYERS,
    ("mlp", "recomputed"): product * LAYERS,
    ("mlp", "backward"): 4 * product * LAYERS,
  }


@pytest.mark.slow
def test_layer_costs_what_a_second_one_adds_by_the_compiler_s_own_count(
  time, mesh
):
  one, two = (
    (compile_layers(mesh, layers, unroll=True).cost_analysis() or {})["flops"]
    for layers in (1, 2)
  )
  assert time.sum("flops") / LAYERS == pytest.approx(two - one, rel=0.02)


def test_weights_are_gathered_and_their_gradients_scattered(time):
  weights = 2 * WIDTH * HIDDEN * 2
  gathered = sum(
    sent.bytes
    for (kind, axes), sent in time.collectives.items()
    if kind == "all-gather" and axes == "fsdp"
  )
  # Forward and backward, three quarters of all from others.
  assert gathered == pytest.approx(2 * LAYERS * weights * 3 / 4, rel=0.01)
  assert any(
    kind in ("reduce-scatter", "all-reduce") for kind, _ in time.collectives
  )


def test_step_is_no_faster_than_its_operations(time, pod):
  assert time.seconds > time.sum("flops") / pod.generation.flops
