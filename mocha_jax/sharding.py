"""Where every array lives: the mesh, and which letter lies on which axis.

The only module that names mesh axes or builds a PartitionSpec. Parameters and
activations are annotated with the letters of `mocha_jax`, and the two tables
below say over which mesh axes a letter is split. The axes:

  slice    slices of TPUs, which a slower network joins: clips
  data     clips, with the parameters whole on each
  fsdp     clips, with parameters, averages and moments split
  context  the frames of a clip; parameters are split over it as over fsdp
  tensor   heads and the feed-forward width

A clip lies on context x tensor devices. Latent frames stay whole.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("slice", "data", "fsdp", "context", "tensor")

# Parameters are whole on each part of these.
REPLICAS = ("slice", "data")

TILE = 8  # Rows of an array that lie together in a TPU's memory.

# A letter of a parameter takes the axes that no letter before it in the table
# has taken, as many as divide it.
PARAMETERS = {
  "N": ("tensor",),
  "F": ("tensor",),
  "D": ("fsdp", "context"),
  "E": ("fsdp", "context"),
}
ACTIVATIONS = {
  "B": (*REPLICAS, "fsdp"),
  "f": "context",
  "T": "context",
  "N": "tensor",
  "F": "tensor",
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis; -1 on one axis takes all that are left."""

  data: int
  fsdp: int
  tensor: int
  context: int
  slice: int

  def __post_init__(self):
    sizes = self._sizes()
    if any(n == 0 or n < -1 for n in sizes) or sizes.count(-1) > 1:
      raise ValueError(
        f"{', '.join(AXES)} = {sizes}: each at least 1, or -1 for one of them"
      )

  def _sizes(self) -> tuple[int, ...]:
    return tuple(getattr(self, axis) for axis in AXES)

  def shape(self, devices: int) -> tuple[int, ...]:
    """Return the sizes of the axes on so many devices.

    Raises:
      ValueError: the axes do not multiply up to the devices.
    """
    sizes = self._sizes()
    known = math.prod(n for n in sizes if n > 0)
    if (-1 in sizes and devices % known) or (
      -1 not in sizes and known != devices
    ):
      raise ValueError(
        f"mesh {' x '.join(AXES)} = {sizes} does not multiply up to "
        f"{devices} devices"
      )
    return tuple(devices // known if n == -1 else n for n in sizes)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Build the mesh over all devices, or the given ones.

  On TPUs, axes are laid along the wires of a slice, and the axis `slice` across
  slices.

  Raises:
    ValueError: the axes do not multiply up to the devices, or `slice` is not
      the number of slices that they lie in.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = config.shape(len(devices))
  slices = {
    getattr(device, "slice_index", 0)
    for device in devices
    if device.platform == "tpu"
  }
  if len(slices) > 1:
    if len(slices) != shape[0]:
      raise ValueError(
        f"mesh slice = {shape[0]}, but the devices lie in {len(slices)} "
        "slices: these must be equal"
      )
    arranged = mesh_utils.create_hybrid_device_mesh(
      (1, *shape[1:]),
      (shape[0], *[1] * (len(AXES) - 1)),
      devices,
      allow_split_physical_axes=True,
    )
  else:
    arranged = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def context_parts() -> int:
  """Return over how many devices the frames of a clip are split."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else mesh.shape["context"]


def all_tokens(x: jax.Array) -> jax.Array:
  """Return the tokens "B T N H" of all parts of a clip, inside a shard_map."""
  return jax.lax.all_gather(x, "context", axis=1, tiled=True)


def tokens_for_heads(x: jax.Array) -> jax.Array:
  """Give away heads of own tokens for all tokens of a part of the heads."""
  return jax.lax.all_to_all(x, "context", 2, 1, tiled=True)


def heads_for_tokens(x: jax.Array) -> jax.Array:
  """Undo `tokens_for_heads`."""
  return jax.lax.all_to_all(x, "context", 1, 2, tiled=True)


def check_divides(mesh: Mesh, **sizes: int) -> None:
  """Refuse sizes, by their letters, that do not divide over the mesh.

    check_divides(mesh, B=512, f=32, N=48, F=16_384)

  Raises:
    ValueError: naming the first that does not, and what does.
  """
  for letter, size in sizes.items():
    axes = _tuple(ACTIVATIONS[letter])
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if size % parts:
      raise ValueError(
        f"{size} {NAMES[letter]} ({letter}) do not divide over "
        f"{' x '.join(axes)} = {parts} of the mesh: take a multiple of {parts}"
      )


NAMES = {
  "B": "clips",
  "f": "latent frames",
  "T": "video tokens",
  "N": "heads",
  "F": "feed-forward units",
}


def _tuple(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
  return (axes,) if isinstance(axes, str) else axes or ()


def _spec(letters: str, ndim: int) -> PartitionSpec:
  axes = _axes(letters)
  if len(axes) > ndim:
    raise ValueError(f"{letters!r} names more axes than the {ndim} there are")
  return PartitionSpec(*[None] * (ndim - len(axes)), *axes)


def parameter_sharding(
  mesh: Mesh, letters: str, shape: tuple[int, ...], *, in_use: bool = False
) -> NamedSharding:
  """Return where a parameter lives, or where it lies while a step uses it.

  The letters name its last axes; axes before them, as of stacked layers, are
  not split, nor is a letter that the table does not know. A size that its mesh
  axes do not divide is split over the first of them that do.

  in_use: as gathered over `context` once a step, where its parts are no whole
    tiles: those (6,144 / 64 = 96 rows) TPUs do gather, layer by layer; of
    smaller ones (6,144 / 512 = 12) they add up arrays of zeros.
  """
  named = letters.split()
  first = len(shape) - len(named)
  if first < 0:
    raise ValueError(f"{letters!r} names more axes than the {shape} there are")
  axes: list[tuple[str, ...] | None] = [None] * len(shape)
  left, rows = {*AXES}, TILE if in_use else 1
  for letter, wanted in PARAMETERS.items():
    if letter in named:
      at = first + named.index(letter)
      axes[at] = taken = _dividing(mesh, wanted, left, shape[at], rows)
      left -= {*taken}
  return NamedSharding(mesh, PartitionSpec(*axes))


def _dividing(
  mesh: Mesh, axes: tuple[str, ...], left: set[str], size: int, rows: int
) -> tuple[str, ...]:
  """Return as many of the axes, in order, as divide a size together.

  rows: of which the parts must be multiples, from the second axis on.
  """
  taken = ()
  for axis in axes:
    parts = math.prod(mesh.shape[a] for a in (*taken, axis))
    if axis in left and size % (parts * rows if taken else parts) == 0:
      taken += (axis,)
  return taken


def lay_out(tree: Any, where: Any) -> Any:
  """Lay arrays out by a tree of shardings, for the axes that are split here."""
  return jax.tree.map(
    lambda x, sharding: jax.lax.with_sharding_constraint(x, sharding.spec),
    tree,
    where,
  )


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
  return jax.lax.with_sharding_constraint(x, _spec(letters, x.ndim))


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
    axis_names={*mesh.axis_names} - {*mesh.manual_axes},
    check_vma=False,
  )

  return lambda *args: constrain(jax.lax.reduce_sum(mapped(*args), [0]), output)


def mean_over_replicas(
  fn: Callable[[Any, Any], Any],
) -> Callable[[Any, Any], Any]:
  """Return fn(whole, rows) as each replica runs it, and the replicas' mean.

  A replica, one part of `slice` x `data`, holds all parameters. It runs fn on
  its own rows of a batch and sends nothing to the others until fn is through;
  so what fn adds up, as over parts of a batch, crosses between them once.
  Without replicas this is fn itself.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or math.prod(mesh.shape[axis] for axis in REPLICAS) == 1:
    return fn
  return jax.shard_map(
    lambda whole, rows: jax.lax.pmean(fn(whole, rows), REPLICAS),
    in_specs=(PartitionSpec(), PartitionSpec(REPLICAS)),
    out_specs=PartitionSpec(),
    axis_names={*REPLICAS},
    check_vma=False,
  )


def _axes(letters: str) -> list[tuple[str, ...]]:
  return [_split(letter) for letter in letters.split()]


def _split(letter: str) -> tuple[str, ...]:
  """Return the axes that split a letter here: a replica has its own rows."""
  apart = jax.sharding.get_abstract_mesh().manual_axes
  return tuple(a for a in _tuple(ACTIVATIONS.get(letter)) if a not in apart)


def _axes_lost(inputs: Sequence[str], output: str) -> tuple[str, ...]:
  """Return the mesh axes of the letters that only the inputs have."""
  lost = {*" ".join(inputs).split()} - {*output.split()}
  return tuple(axis for letter in sorted(lost) for axis in _split(letter))


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
