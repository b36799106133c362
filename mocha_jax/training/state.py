"""The train state: all that a step reads and writes, and where it lives."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mocha_jax import sharding
from mocha_jax.network import Network


@typing.no_type_check  # A tree map may put anything in the fields.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """step, the parameters, their moving average, the optimizer's, and a key.

  Frozen parameters have no average and no optimizer's: they are their own.
  """

  step: Any
  params: Any
  ema: Any
  opt_state: Any
  rng: Any


def state_shardings(
  network: Network, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Return where each part of the train state lives.

  What the optimizer keeps per parameter lives where the parameter does.
  """
  params = network.shardings(mesh)
  trained = network.trained(params)
  everywhere = sharding.replicated(mesh)
  opt_state = optax.tree.map_params(
    optimizer,
    lambda _, where: where,
    jax.eval_shape(optimizer.init, network.trained(network.shapes)),
    trained,
    transform_non_params=lambda _: everywhere,
  )
  return TrainState(
    step=everywhere,
    params=params,
    ema=trained,
    opt_state=opt_state,
    rng=everywhere,
  )


def init_state(
  network: Network,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
  params: Any = None,
) -> TrainState:
  """Build the whole state in one compiled function, already laid out.

  params: those to start from, which are given away; fresh ones unless given.
  """

  def init(params) -> TrainState:
    init_key, rng = jax.random.split(jax.random.key(seed))
    params = network.init(init_key) if params is None else params
    trained = network.trained(params)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      ema=jax.tree.map(jnp.copy, trained),
      opt_state=optimizer.init(trained),
      rng=jax.random.key_data(rng),
    )

  return jax.jit(
    init,
    out_shardings=state_shardings(network, optimizer, mesh),
    donate_argnums=0,
  )(params)
