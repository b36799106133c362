"""The train state: all that a step reads and writes, and where it lives."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from mocha_jax import sharding


@typing.no_type_check  # A tree map may put anything in the fields.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """step, the parameters, their moving average, the optimizer's, and a key."""

  step: Any
  params: Any
  ema: Any
  opt_state: Any
  rng: Any


class Network:
  """A model's structure, apart from its parameters.

  build: makes the module, given `nnx.Rngs`; it is only traced here.
  """

  def __init__(self, build):
    self._build = build
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    self._graph, self._template = nnx.split(model, nnx.Param)
    self.letters = _letters(self._template)
    self.shapes = nnx.to_pure_dict(self._template)

  def init(self, rng: jax.Array) -> Any:
    """Return fresh parameters, a tree of arrays."""
    state = nnx.state(self._build(nnx.Rngs(rng)), nnx.Param)
    return nnx.to_pure_dict(state)

  def bind(self, params: Any) -> nnx.Module:
    """Return the model with these parameters."""
    state = jax.tree.map(lambda x: x, self._template)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(self._graph, state)

  def shardings(self, mesh: Mesh, *, in_use: bool = False) -> Any:
    """Return where each parameter lives, a tree like the parameters'.

    in_use: where it lies during a step (`sharding.parameter_sharding`).
    """
    return jax.tree.map(
      lambda letters, shape: sharding.parameter_sharding(
        mesh, letters, shape.shape, in_use=in_use
      ),
      self.letters,
      self.shapes,
    )


def _letters(state: nnx.State) -> Any:
  """Return the letters of every parameter, as annotated where it is made."""
  named = {
    path: variable.get_metadata()["letters"]
    for path, variable in nnx.to_flat_state(state)
  }
  return nnx.traversals.unflatten_mapping(named)


def state_shardings(
  network: Network, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Return where each part of the train state lives.

  What the optimizer keeps per parameter lives where the parameter does.
  """
  params = network.shardings(mesh)
  everywhere = sharding.replicated(mesh)
  opt_state = optax.tree.map_params(
    optimizer,
    lambda _, where: where,
    jax.eval_shape(optimizer.init, network.shapes),
    params,
    transform_non_params=lambda _: everywhere,
  )
  return TrainState(
    step=everywhere,
    params=params,
    ema=params,
    opt_state=opt_state,
    rng=everywhere,
  )


def init_state(
  network: Network,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
) -> TrainState:
  """Build the whole state in one compiled function, already laid out."""

  def init() -> TrainState:
    init_key, rng = jax.random.split(jax.random.key(seed))
    params = network.init(init_key)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      ema=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
      rng=jax.random.key_data(rng),
    )

  return jax.jit(
    init, out_shardings=state_shardings(network, optimizer, mesh)
  )()
