"""Any mesh computes what one device does, each device its own part of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax import sharding
from mocha_jax.batch import Batch, Condition
from mocha_jax.compilation import hlo, network
from mocha_jax.diffusion import flow
from mocha_jax.diffusion.flow import FlowConfig
from mocha_jax.models.movie_gen import MovieGen
from mocha_jax.training import optim, state, step
from mocha_jax.training.checkpoint import abstract_state
from tests.small_model import CONFIG
from tests.training.test_training import OPTIM, STEP, find

FLOW = FlowConfig(1.0)

# data, fsdp, tensor, context, slice; the model has 4 heads, a clip 4 frames.
MESHES = {
  "data, fsdp and tensor": (2, 2, 2, 1, 1),
  "slices": (1, 2, 1, 2, 2),
  "a quarter of a clip a device": (1, 2, 1, 4, 1),
  "an eighth, keys gathered": (1, 1, 2, 4, 1),
}


def batch(clips: int) -> Batch:
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return Batch(
    normal(clips, 4, 4, 4, 5),
    Condition(
      normal(clips, 16, 6),
      {"small_text": jnp.asarray(rng.integers(1, 64, (clips, 8)), jnp.int32)},
      {"small_text": jnp.asarray(rng.random((clips, 8)) < 0.9)},
    ),
  )


def alive(network: state.Network):
  """Parameters of which none is zero, so that every path is alive."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), network.shapes
  )


def mesh_of(shape: tuple[int, ...]):
  devices = jax.devices()[: int(np.prod(shape))]
  return sharding.make_mesh(sharding.MeshConfig(*shape), devices)


def compiled_gradients(shape, clips: int, model=CONFIG):
  """Compile the loss and its gradients for a mesh; and run them."""
  network = state.Network(lambda rngs: MovieGen(model, rngs=rngs))
  mesh = mesh_of(shape)
  where = network.shardings(mesh)

  def loss(params, batch: Batch):
    latents = sharding.constrain(batch.latents, "B f h w c")
    keys = jax.random.split(jax.random.key(3), len(latents))
    return flow.loss(network.bind(params), latents, batch.condition, keys, FLOW)

  with jax.set_mesh(mesh):
    params = jax.device_put(alive(network), where)
    given = sharding.place(batch(clips), mesh)
    compiled = (
      jax.jit(jax.value_and_grad(loss), out_shardings=(None, where))
      .lower(params, given)
      .compile()
    )
    return compiled, compiled(params, given), where


@pytest.fixture(scope="module")
def alone():
  """The loss and the gradients on one device."""
  return compiled_gradients((1, 1, 1, 1, 1), 8)[1]


@pytest.mark.parametrize("name", MESHES)
def test_loss_and_gradients_are_those_of_one_device(name, alone):
  _, (loss, grads), where = compiled_gradients(MESHES[name], 8)
  np.testing.assert_allclose(loss, alone[0], rtol=1e-5)

  def check(path, got, want):
    largest = max(float(jnp.abs(want).max()), 1e-3)
    np.testing.assert_allclose(
      got,
      want,
      rtol=0,
      atol=2e-5 * largest,  # 1.2e-5 with jax 0.12, of a sum over all tokens.
      err_msg=jax.tree_util.keystr(path),
    )

  jax.tree.map_with_path(check, grads, alone[1])
  assert jax.tree.map(lambda x: x.sharding, grads) == where


def test_activations_are_split_over_context():
  whole = compiled_gradients((1, 2, 1, 1, 1), 2)[0].memory_analysis()
  parts = compiled_gradients((1, 2, 1, 4, 1), 2)[0].memory_analysis()
  assert whole is not None and parts is not None
  # Text and gathered weights are not split.
  assert parts.temp_size_in_bytes < 0.7 * whole.temp_size_in_bytes


def test_state_is_split_over_fsdp_and_context():
  trainer = trainer_on((1, 2, 1, 4, 1))
  now = trainer.init()
  for part in (now.params, now.ema, now.opt_state):
    query = find(part, "self_attention", "query")
    # [layers D N H]: D over fsdp x context.
    assert query.sharding.shard_shape(query.shape) == (2, 4, 4, 8)
  # While a step uses it, over fsdp alone.
  where = find(
    trainer.network.shardings(trainer.mesh, in_use=True),
    "self_attention",
    "query",
  )
  assert where.shard_shape(query.shape) == (2, 16, 4, 8)


class Trainer:
  """What it takes to run steps on a mesh."""

  def __init__(self, shape, config):
    self.mesh = mesh_of(shape)
    self.network = state.Network(lambda rngs: MovieGen(CONFIG, rngs=rngs))
    self.optimizer = optim.make_optimizer(OPTIM, self.network.letters)
    self.step = step.make_train_step(
      self.network, self.optimizer, FLOW, config, self.mesh
    )

  def init(self):
    return state.init_state(self.network, self.optimizer, self.mesh, 0)


def trainer_on(shape, config=STEP) -> Trainer:
  return Trainer(shape, config)


def test_accumulation_on_any_mesh_is_that_of_one_device():
  config = dataclasses.replace(STEP, accumulate=2)
  losses = []
  for shape in (
    (1, 1, 1, 1, 1),
    (1, 2, 1, 4, 1),
    (2, 2, 2, 1, 1),
    (1, 1, 2, 2, 2),
  ):
    trainer = trainer_on(shape, config)
    now = trainer.init()
    given = sharding.place(batch(8), trainer.mesh)
    for _ in range(2):
      now, metrics = trainer.step(now, given)
      losses.append(float(metrics["loss"]))
  np.testing.assert_allclose(losses[2:], 3 * losses[:2], rtol=0, atol=1e-5)


def test_gradients_cross_between_slices_once_a_step_and_nothing_else_does():
  trainer = trainer_on((1, 2, 1, 2, 2), dataclasses.replace(STEP, accumulate=4))
  given = sharding.place(batch(16), trainer.mesh)
  like = abstract_state(trainer.network, trainer.optimizer, trainer.mesh)
  compiled = trainer.step.lower(like, given).compile()
  program = hlo.parse(compiled.as_text() or "")
  found = [
    (instruction, times)
    for instruction, times in collectives(program, program.entry)
    if "slice" in crossed(instruction, trainer.mesh)
  ]
  assert {i.opcode for i, _ in found} == {"all-reduce"}
  assert {times for _, times in found} == {1}
  sizes = [a.dims for i, _ in found for a in i.arrays]
  # Each device has its part of every gradient, and adds up loss and norm.
  where = trainer.network.shardings(trainer.mesh, in_use=True)
  parts = jax.tree.map(
    lambda x, on: on.shard_shape(x.shape), trainer.network.shapes, where
  )
  leaves = jax.tree.leaves(parts, is_leaf=lambda x: isinstance(x, tuple))
  size = lambda dims: int(np.prod(dims))
  assert sum(map(size, sizes)) <= sum(map(size, leaves)) + 2


def collectives(program, computation, times=1):
  """Yield the collectives of a program, and how often each runs."""
  for instruction in computation:
    if instruction.opcode.removesuffix("-start") in hlo.COLLECTIVES:
      yield instruction, times
    often = program.trips(instruction) if instruction.opcode == "while" else 1
    for name in instruction.called:
      yield from collectives(program, program[name], times * often)


def crossed(instruction, mesh):
  return network.crossed(network.group_of(instruction, mesh.size), mesh)
