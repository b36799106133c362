"""Parameters of a checkpoint, written and read a part of one at a time.

What is larger than the memory of a machine can so be brought into a checkpoint,
and out of it: a few layers of a parameter are in memory at a time, or the whole
of one whose layers were not stored apart.
"""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

_PART = 2**28  # Bytes that are written as one.
_ROW = 2**20  # Bytes of a layer on a device, at least, to store it apart.

Index = tuple[slice, ...]
Read = Callable[[Index], np.ndarray]  # A part of an array, by bounds.


@dataclasses.dataclass(frozen=True)
class Promise:
  """A parameter that is made when its turn to be written comes.

  sharding: where it will live; None: whole on one device.
  make: returns what reads a part that lies on a device of this process;
    index: slices of step 1, with both ends, of all axes.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  sharding: jax.sharding.Sharding | None
  make: Callable[[], Read]

  def shards(self) -> list[Index]:
    """Return what this process writes: of all that hold a part, the first."""
    whole = tuple(slice(0, size) for size in self.shape)
    if self.sharding is None:
      return [whole] if jax.process_index() == 0 else []
    held_by = self.sharding.devices_indices_map(self.shape)
    return [
      _bounds(index, self.shape)
      for device, index in held_by.items()
      if device.process_index == jax.process_index()
      and device == next(x for x, there in held_by.items() if there == index)
    ]


def held(array: jax.Array) -> Read:
  """Return what reads parts of an array that devices of this process hold."""

  def read(index: Index) -> np.ndarray:
    for shard in array.addressable_shards:
      there = _bounds(shard.index, array.shape)
      pairs = list(zip(index, there, strict=True))
      if all(y.start <= x.start and x.stop <= y.stop for x, y in pairs):
        inside = (slice(x.start - y.start, x.stop - y.start) for x, y in pairs)
        return np.asarray(shard.data)[tuple(inside)]
    raise ValueError(f"no device of this process holds {index}")

  return read


def _bounds(index: Index, shape: Sequence[int]) -> Index:
  """Return slices with both ends."""
  return tuple(
    slice(*part.indices(size)) for part, size in zip(index, shape, strict=True)
  )


class _PartByPart(ocp.type_handlers.ArrayHandler):
  """Makes what was promised, writes it, and forgets it before the next."""

  async def serialize(self, values: Any, infos, args=None):
    for value, info, arg in zip(values, infos, args or (), strict=True):
      await _write(value, info, arg)
    return []


async def _write(promise: Promise, info, arg) -> None:
  """Write a parameter, by rows of its chunks."""
  import tensorstore

  await info.await_path_creation()
  spec = tensorstore.Spec(
    ocp.type_handlers.get_json_tspec_write(
      info,
      use_ocdbt=info.is_ocdbt_checkpoint,
      global_shape=promise.shape,
      local_shape=_shard_shape(promise),
      dtype=promise.dtype,
      process_index=jax.process_index(),
      arg=arg,
    )
  )
  if jax.process_index() == 0:
    tensorstore.open(
      spec, create=True, open=True, context=info.ts_context
    ).result()
  store = tensorstore.open(
    spec, open=True, assume_metadata=True, context=info.ts_context
  ).result()
  chunk = (store.chunk_layout.write_chunk.shape or (1,))[0] or 1
  bytes_of_chunk = chunk * _row_bytes(promise)
  rows = chunk * max(1, _PART // max(1, bytes_of_chunk))
  read = promise.make()
  for shard in promise.shards():
    for index in _divided(shard, rows):
      part = read(index)
      assert part.shape == store[index].shape  # Else it would be broadcast.
      try:
        store[index].write(part).result()
      except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
          raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def _divided(index: Index, rows: int) -> Iterator[Index]:
  """Divide a part along its first axis."""
  if not index:
    yield index
    return
  first, *rest = index
  for start in range(first.start, first.stop, rows):
    yield slice(start, min(start + rows, first.stop)), *rest


def _shard_shape(x: Any) -> tuple[int, ...]:
  """Return the shape of what a device holds of an array, or will."""
  where = getattr(x, "sharding", None)
  return where.shard_shape(x.shape) if where else x.shape


def _row_bytes(x: Any) -> int:
  """Return the bytes of a layer on a device."""
  return math.prod(_shard_shape(x)[1:]) * np.dtype(x.dtype).itemsize


def save_args(x: Any) -> ocp.SaveArgs:
  """Say how to write an array: a large one layer by layer, if they are large.

  Then export reads a layer alone, wherever the array lay.

  x: has a shape and a type and, unless it lies whole on a device, a sharding.
  """
  if math.prod(x.shape) * np.dtype(x.dtype).itemsize <= _PART:
    return ocp.SaveArgs()
  by_rows = (0,) if _row_bytes(x) >= _ROW else ()
  return ocp.SaveArgs(shard_axes=by_rows, chunk_byte_size=_PART)


def write(folder: pathlib.Path, params: Any) -> None:
  """Write a checkpoint of step 0 that holds parameters alone.

  All processes call it alike, and each writes what its devices hold.

  params: a tree of promises.
  """
  part_by_part = _PartByPart(
    use_replica_parallel=False,
    enable_write_sharding_file=False,
    array_metadata_store=None,
  )
  handler = ocp.PyTreeCheckpointHandler(
    type_handler_registry=ocp.type_handlers.create_type_handler_registry(
      (Promise, part_by_part),
      (jax.Array, part_by_part),  # Else Orbax warns that there is none.
    ),
    use_compression=False,  # Weights hardly shrink.
  )
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  registry.add("params", ocp.args.PyTreeSave, handler)
  manager = ocp.CheckpointManager(
    folder.absolute(),
    options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
    handler_registry=registry,
  )
  tree = {"params": params}  # As in `checkpoint`: under its name.
  arguments = ocp.args.PyTreeSave(tree, save_args=jax.tree.map(save_args, tree))
  manager.save(0, args=ocp.args.Composite(params=arguments))
  manager.close()


class Saved:
  """A parameter in a checkpoint, read when it is wanted, a part at a time.

  Of one whose layers were not stored apart all is read, and kept for the next
  part of it: one that is large, and small ones that are not more together.
  """

  def __init__(self, store: Any, whole: "dict[Saved, np.ndarray]"):
    self._store, self._whole = store, whole
    self.shape = tuple(store.shape)
    self.dtype = np.dtype(store.dtype.numpy_dtype)
    self._bytes = math.prod(self.shape) * self.dtype.itemsize

  def read(self, index: tuple[slice, ...] = ()) -> np.ndarray:
    """Return a part; index: slices of step 1 of the first axes."""
    if not self.shape or self._store.chunk_layout.read_chunk.shape[0] == 1:
      return np.asarray(self._store[index].read().result())
    if self not in self._whole:
      self._make_room()
      self._whole[self] = np.asarray(self._store.read().result())
    return self._whole[self][index]

  def _make_room(self) -> None:
    """Forget the large one for a large one, the oldest small for a small."""
    alike = [
      x for x in self._whole if (x._bytes > _PART) == (self._bytes > _PART)
    ]
    while alike and sum(x._bytes for x in alike) + self._bytes > _PART:
      del self._whole[alike.pop(0)]


def read(
  folder: pathlib.Path, part: str, paths: Iterable[str]
) -> dict[str, Saved]:
  """Find arrays of a part of a checkpoint, such as "ema", by dotted path.

  folder: of the checkpoint's step.

  Raises:
    ValueError: the checkpoint lacks one.
  """
  import tensorstore

  found, whole = {}, {}
  base = {"driver": "file", "path": f"{folder.absolute() / part}/"}
  for path in paths:
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{part}.{path}/"}
    try:
      store = tensorstore.open({"driver": "zarr", "kvstore": kvstore}).result()
    except ValueError as error:
      if not str(error).startswith("NOT_FOUND"):
        raise ValueError(f"{folder / part}: {path}: {error}") from error
      raise ValueError(f"{folder / part} holds no {path}") from error
    found[path] = Saved(store, whole)
  return found
