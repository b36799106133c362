"""What is to be exported: a function of named arrays, some of them weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mocha_jax.encoders.frozen import Frozen
from mocha_jax.weights.tables import Stored

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
  """call(parameters, inputs) -> outputs, dicts all; and what it is given.

  parameters: read when they are written. inputs: shapes and types.
  """

  call: Callable[[Arrays, Arrays], Arrays]
  parameters: Mapping[str, Stored]
  inputs: Arrays

  @property
  def shapes(self) -> Arrays:
    """Shapes and types of the parameters."""
    return {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype)
      for name, x in self.parameters.items()
    }


def array(dtype: str, *shape: Any) -> jax.ShapeDtypeStruct:
  """Return an input of a program."""
  return jax.ShapeDtypeStruct(shape, dtype)


def frozen_parameters(encoder: Frozen, prefix: str) -> dict[str, Stored]:
  """Return the parameters of an encoder, by path after a prefix.

  Raises:
    ValueError: it has no weights, or they are of another network.
  """
  plan, tensors = encoder.open_files()
  return {
    prefix + path: leaf.our_parameter(tensors, encoder.config.dtype)
    for path, leaf in plan.leaves.items()
  }
