"""Where every array lives: the mesh, and which letter lies on which axis.

The only module that names mesh axes or builds a PartitionSpec. Parameters and
activations are annotated with the letters of `mocha_jax`, and the two tables
below say over which mesh axes a letter is split.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

PARAMETERS = {"D": "fsdp", "N": "tensor", "F": "tensor"}
ACTIVATIONS = {"B": ("data", "fsdp"), "N": "tensor", "F": "tensor"}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis; -1 on one axis takes all that are left."""

  data: int
  fsdp: int
  tensor: int

  def __post_init__(self):
    sizes = dataclasses.astuple(self)
    if any(n == 0 or n < -1 for n in sizes) or sizes.count(-1) > 1:
      raise ValueError(
        f"data, fsdp, tensor = {sizes}: each at least 1, or -1 for one of them"
      )

  def shape(self, devices: int) -> tuple[int, ...]:
    """Return the sizes of the axes on so many devices.

    Raises:
      ValueError: the axes do not multiply up to the devices.
    """
    sizes = dataclasses.astuple(self)
    known = math.prod(n for n in sizes if n > 0)
    if (-1 in sizes and devices % known) or (
      -1 not in sizes and known != devices
    ):
      raise ValueError(
        f"mesh data x fsdp x tensor = {sizes} does not multiply up to "
        f"{devices} devices"
      )
    return tuple(devices // known if n == -1 else n for n in sizes)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Build the mesh over all devices, or the given ones."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh(
    config.shape(len(devices)),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices,
  )


def _spec(letters: str, table: dict, ndim: int) -> PartitionSpec:
  axes = [table.get(letter) for letter in letters.split()]
  if len(axes) > ndim:
    raise ValueError(f"{letters!r} names more axes than the {ndim} there are")
  return PartitionSpec(*[None] * (ndim - len(axes)), *axes)


def parameter_sharding(mesh: Mesh, letters: str, ndim: int) -> NamedSharding:
  """Return where a parameter lives.

  The letters name its last axes; axes before them, as of stacked layers, are
  not split, nor is a letter that the table does not know.
  """
  return NamedSharding(mesh, _spec(letters, PARAMETERS, ndim))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Return where the arrays of a batch live: split along B."""
  return NamedSharding(mesh, PartitionSpec(ACTIVATIONS["B"]))


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, letters: str) -> jax.Array:
  """Lay an activation out by its letters; without a mesh, leave it alone."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(
    x, _spec(letters, ACTIVATIONS, x.ndim)
  )


def batch_shards(mesh: Mesh) -> int:
  """Return into how many parts B is split."""
  return math.prod(mesh.shape[axis] for axis in ACTIVATIONS["B"])


def place(batch: Any, mesh: Mesh) -> Any:
  """Put this process's part of a batch on its devices."""
  where = batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(where, x), batch
  )
