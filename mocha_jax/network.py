"""A model apart from its parameters: what is trained, frozen, stored, read.

A module annotates its parameters with letters where it makes them; here they
become trees of shapes, letters and places that all parts of a program share.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from mocha_jax import sharding


class Network:
  """A model's structure, apart from its parameters.

  build: makes the module, given `nnx.Rngs`; it is only traced here.
  is_trained: says of a parameter's dotted path whether it is; all are unless
    given. The others are frozen.
  """

  def __init__(
    self,
    build: Callable[[nnx.Rngs], nnx.Module],
    is_trained: Callable[[str], bool] | None = None,
  ):
    self._build, self._is_trained = build, is_trained
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

  def trained(self, tree: Any) -> Any:
    """Return the part that is trained, of a tree like the parameters'."""
    return tree if self._is_trained is None else self._part(tree, "")

  def _part(self, tree: Any, where: str) -> Any:
    assert self._is_trained is not None
    part = {}
    for key, value in tree.items():
      if isinstance(value, dict):
        inside = self._part(value, f"{where}{key}.")
        part |= {key: inside} if inside else {}
      elif self._is_trained(f"{where}{key}"):
        part[key] = value
    return part

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


def paths(tree: Any) -> dict[str, Any]:
  """Flatten a tree of mappings; keys are joined by dots: "blocks.mlp.up"."""
  flat = {}
  for key, value in tree.items():
    if hasattr(value, "items"):
      inner = paths(value)
      flat |= {f"{key}.{path}": x for path, x in inner.items()}
    else:
      flat[str(key)] = value
  return flat


def nested(flat: Mapping[str, Any], prefix: str = "") -> Any:
  """Undo `paths`; the prefix before all of them is left out.

  Keys that are numbers are places in a list.
  """

  def keys(path: str) -> tuple[str | int, ...]:
    parts = path.removeprefix(prefix).split(".")
    return tuple(int(part) if part.isdecimal() else part for part in parts)

  return nnx.traversals.unflatten_mapping(
    {keys(path): x for path, x in flat.items()}
  )


def joined(tree: Any, part: Any) -> Any:
  """Return a tree of mappings with a part of it in place of its own."""
  return {
    key: value
    if key not in part
    else joined(value, part[key])
    if isinstance(value, dict)
    else part[key]
    for key, value in tree.items()
  }


def _letters(state: nnx.State) -> Any:
  """Return the letters of every parameter, as annotated where it is made."""
  named = {
    path: variable.get_metadata()["letters"]
    for path, variable in nnx.to_flat_state(state)
  }
  return nnx.traversals.unflatten_mapping(named)
