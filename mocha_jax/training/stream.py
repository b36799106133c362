"""Parameters of a checkpoint, written and read one at a time, or a part of one.

What is larger than the memory of a machine can so be brought into a checkpoint
and out of it: no more than one parameter is in memory, or one layer of it.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

_PART = 2**28  # Bytes on one device that are written as one.


@dataclasses.dataclass(frozen=True)
class Promise:
  """A parameter that is made when its turn to be written comes.

  sharding: where it will live; None: whole on one device.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  sharding: jax.sharding.Sharding | None
  make: Callable[[], jax.Array]

  @property
  def size(self) -> int:
    """How many numbers it holds."""
    return math.prod(self.shape)


class _OneByOne(ocp.type_handlers.ArrayHandler):
  """Makes what was promised, writes it, and forgets it before the next."""

  async def serialize(self, values: Any, infos, args=None):
    for value, info, arg in zip(values, infos, args or (), strict=True):
      commits = [*await super().serialize([value.make()], [info], [arg])]
      while commits:  # Each holds the array.
        commits.pop().result()
    return []


def save_args(x: Any) -> ocp.SaveArgs:
  """Say how to write an array: layer by layer if a device holds much of it.

  x: has a shape and a type and, unless it lies whole on a device, a sharding.
  """
  where = getattr(x, "sharding", None)
  shape = where.shard_shape(x.shape) if where else x.shape
  if math.prod(shape) * np.dtype(x.dtype).itemsize <= _PART:
    return ocp.SaveArgs()
  return ocp.SaveArgs(shard_axes=(0,), chunk_byte_size=_PART)


def write(folder: pathlib.Path, params: Any) -> None:
  """Write a checkpoint of step 0 that holds parameters alone.

  All processes call it alike, and each writes what its devices hold.

  params: a tree of promises.
  """
  one_by_one = _OneByOne(
    use_replica_parallel=False,
    enable_write_sharding_file=False,
    array_metadata_store=None,
  )
  handler = ocp.PyTreeCheckpointHandler(
    type_handler_registry=ocp.type_handlers.create_type_handler_registry(
      (Promise, one_by_one),
      (jax.Array, one_by_one),  # Else Orbax warns that there is none.
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

  Of one that was not written layer by layer all is read, and stays in memory
  until another is, so that the next part of it need not be read again.
  """

  def __init__(self, store: Any, whole: "dict[Saved, np.ndarray]"):
    self._store, self._whole = store, whole
    self.shape = tuple(store.shape)
    self.dtype = np.dtype(store.dtype.numpy_dtype)

  def read(self, index: tuple[slice, ...] = ()) -> np.ndarray:
    """Return a part; index: slices of step 1 of the first axes."""
    if not self.shape or self._store.chunk_layout.read_chunk.shape[0] == 1:
      return np.asarray(self._store[index].read().result())
    if self not in self._whole:
      self._whole.clear()  # Before the next takes its place in memory.
      self._whole[self] = np.asarray(self._store.read().result())
    return self._whole[self][index]


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
      raise ValueError(f"{folder / part} holds no {path}") from error
    found[path] = Saved(store, whole)
  return found
