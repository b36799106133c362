"""One training step: gradients of the flow loss, an update, the average."""

import dataclasses
import importlib.metadata
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mocha_jax import sharding
from mocha_jax.batch import Batch
from mocha_jax.diffusion import flow
from mocha_jax.network import Network, joined
from mocha_jax.training.state import TrainState, state_shardings

Metrics = dict[str, jax.Array]

# How XLA compiles the step for TPUs: weights are gathered while matrix products
# run, over several of them, and tokens change places for heads while others do.
_FUSED_GATHERS = "xla_tpu_enable_async_collective_fusion_fuse_all_gather"
_OVERLAP = {
  "xla_tpu_enable_async_collective_fusion": True,
  _FUSED_GATHERS: True,
  "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
  "xla_tpu_overlap_compute_collective_tc": True,
  "xla_enable_async_all_gather": True,
}
_ASYNC_ALL_TO_ALL = {"xla_tpu_enable_async_all_to_all": True}
# "Async all-to-all not supported on limited ICI", says the compiler.
_LIMITED = ("TPU v5 lite", "TPU v5e")
# Later libtpus (0.0.50 does) refuse to fuse gathers elsewhere than on v5e.
_FUSING = (0, 0, 42)


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """accumulate: parts of a batch, one after another; ema: decay per step."""

  accumulate: int
  ema: float

  def __post_init__(self):
    if self.accumulate < 1:
      raise ValueError(f"accumulate={self.accumulate}: at least 1")
    if not 0 <= self.ema < 1:
      raise ValueError(f"ema={self.ema}: must be in [0, 1)")


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """The compiled step; it takes over (donates) the state."""

  jitted: Any
  mesh: Mesh

  def __call__(
    self, state: TrainState, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    """Return the state after the step, and its metrics."""
    with jax.set_mesh(self.mesh):
      return self.jitted(state, batch)

  def lower(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
    """Lower the step for shapes, on the mesh's devices, be they here or not."""
    with jax.set_mesh(self.mesh):
      return self.jitted.lower(state, batch)


def make_train_step(
  network: Network,
  optimizer: optax.GradientTransformation,
  flow_config: flow.FlowConfig,
  config: StepConfig,
  mesh: Mesh,
) -> TrainStep:
  """Return the step on a mesh; it is compiled when it is first called."""

  where = state_shardings(network, optimizer, mesh)
  in_use = network.shardings(mesh, in_use=True)

  def loss(trained, params, batch: Batch, keys):
    model = network.bind(joined(params, trained))
    latents = sharding.constrain(batch.latents, "B f h w c")
    return flow.loss(model, latents, batch.condition, keys, flow_config)

  def of_part(params, batch: Batch, keys):
    trained = network.trained(params)
    value, grads = jax.value_and_grad(loss)(trained, params, batch, keys)
    # Here, so that no device ever holds the sum of all gradients whole.
    return value, sharding.lay_out(grads, network.trained(in_use))

  def gradients(params, rows: tuple[Batch, jax.Array]):
    if config.accumulate == 1:
      return of_part(params, *rows)
    # Part i takes every accumulate-th clip, so that each device keeps its own.
    parts = jax.tree.map(
      lambda x: jnp.moveaxis(
        x.reshape(-1, config.accumulate, *x.shape[1:]), 1, 0
      ),
      rows,
    )

    def add(total, part):
      return jax.tree.map(jnp.add, total, of_part(params, *part)), None

    trained = network.trained(params)
    zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), trained))
    total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda x: x / config.accumulate, total)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    gathered = jax.lax.with_sharding_constraint(state.params, in_use)
    keys = jax.random.split(key, len(batch.latents))
    mean = gradients
    if config.accumulate > 1:
      mean = sharding.mean_over_replicas(gradients)
    value, grads = mean(gathered, (batch, keys))
    grads = jax.lax.with_sharding_constraint(grads, where.ema)
    with jax.named_scope("optimizer"):
      trained = network.trained(state.params)
      updates, opt_state = optimizer.update(grads, state.opt_state, trained)
      trained = optax.apply_updates(trained, updates)
      ema = optax.incremental_update(trained, state.ema, 1 - _decay(state.step))
      params = joined(state.params, trained)
      metrics = dict(loss=value, grad_norm=optax.tree.norm(grads))
    return TrainState(
      state.step + 1, params, ema, opt_state, state.rng
    ), metrics

  def _decay(at):
    """Average over about the last tenth of a young run."""
    return jnp.minimum(config.ema, (1 + at) / (10 + at))

  jitted = jax.jit(
    step,
    in_shardings=(where, sharding.batch_sharding(mesh)),
    out_shardings=(where, sharding.replicated(mesh)),
    donate_argnums=0,
    compiler_options=_compiler_options(mesh.devices.flat[0]),
  )
  return TrainStep(jitted, mesh)


def _compiler_options(device: Any) -> dict[str, bool] | None:
  """Return how XLA compiles the step for devices like this one."""
  if device.platform != "tpu":
    return None
  if device.device_kind.startswith(_LIMITED):
    return _OVERLAP
  fused = {_FUSED_GATHERS: _libtpu() <= _FUSING}
  return _OVERLAP | fused | _ASYNC_ALL_TO_ALL


def _libtpu() -> tuple[int, ...]:
  """Return the first three numbers of libtpu's version; high if not known."""
  try:
    found = importlib.metadata.version("libtpu")
  except importlib.metadata.PackageNotFoundError:
    return (sys.maxsize,)
  return tuple(int(n) for n in re.findall(r"\d+", found)[:3])
