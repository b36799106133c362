"""Where every array lives: the mesh, and which letter lies on which axis.

The only module that names mesh axes or builds a PartitionSpec. Parameters and
activations are annotated with the letters of `mocha_jax`, and the two tables
below say over which mesh axes a letter is split.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
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


def shard_mapped(
  fn: Callable[..., jax.Array], inputs: Sequence[str], output: str
) -> Callable[..., jax.Array]:
  """Return fn as each device runs it on its own part of the inputs.

  The letters name all axes of each argument and of the result, as in
  `constrain`. A letter that is split, and that the result lacks, is summed:
  fn returns a partial sum, and the devices' are added up. Without a mesh this
  is fn itself.

    shard_mapped(fn, ["B D", "B N D"], "B D")  # Sums over the axis of N.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return fn
  # Partial sums leave by an axis of their own and are added up outside. So the
  # result is split over all that it varies over, and the transpose is right
  # without checks: it adds up, once, what every device held whole.
  mapped = jax.shard_map(
    lambda *args: fn(*args)[None],
    in_specs=tuple(PartitionSpec(*_axes(names)) for names in inputs),
    out_specs=PartitionSpec(_axes_lost(inputs, output), *_axes(output)),
    check_vma=False,
  )

  return lambda *args: constrain(jax.lax.reduce_sum(mapped(*args), [0]), output)


def _axes(letters: str) -> list[str | tuple[str, ...] | None]:
  return [ACTIVATIONS.get(letter) for letter in letters.split()]


def _axes_lost(inputs: Sequence[str], output: str) -> tuple[str, ...]:
  """Return the mesh axes of the letters that only the inputs have."""
  lost = {*" ".join(inputs).split()} - {*output.split()}
  axes = [axis for axis in _axes(" ".join(sorted(lost))) if axis is not None]
  return tuple(
    a for axis in axes for a in ([axis] if isinstance(axis, str) else axis)
  )


def batch_shards(mesh: Mesh) -> int:
  """Return into how many parts B is split."""
  return math.prod(mesh.shape[axis] for axis in ACTIVATIONS["B"])


@functools.lru_cache(maxsize=8)
def local_rows(
  mesh: Mesh, batch_size: int, devices: tuple[Any, ...] | None = None
) -> tuple[int, ...]:
  """Return which rows of a batch the devices hold, in order.

  devices: of the mesh; this process's unless given. Processes may hold the same
    rows: where a clip is split over several chips, or a tensor axis over hosts.
  """
  where = NamedSharding(mesh, PartitionSpec(ACTIVATIONS["B"]))
  held = where.devices_indices_map((batch_size,))
  devices = tuple(mesh.local_devices) if devices is None else devices
  rows = {i for d in devices for i in range(batch_size)[held[d][0]]}
  return tuple(sorted(rows))


def place(batch: Any, mesh: Mesh, batch_size: int | None = None) -> Any:
  """Put a batch, of which this process has its `local_rows`, on the devices.

  batch_size: rows of the whole batch; unless given, `batch` is all of it.
  """
  where = batch_sharding(mesh)
  if batch_size is None or jax.process_count() == 1:
    return jax.device_put(batch, where)
  rows = local_rows(mesh, batch_size)

  def put(x):
    def part(index):
      first, end, _ = index[0].indices(batch_size)
      start = bisect.bisect_left(rows, first)  # A device's rows lie together.
      return x[start : start + end - first, *index[1:]]

    return jax.make_array_from_callback((batch_size, *x.shape[1:]), where, part)

  return jax.tree.map(put, batch)
