"""A model apart from its parameters: what is trained, frozen, stored, read.

A module annotates its parameters with letters where it makes them; here they
become trees of shapes, letters and places that all parts of a program share.
"""

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from mocha_jax import sharding


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
