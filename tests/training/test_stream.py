"""Parameters written and read a part at a time."""

import functools
import resource

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mocha_jax.training import stream
from tests import numerics


class Noted:
  """An array that notes how much of it is read at once."""

  def __init__(self, shape):
    rng = np.random.default_rng(0)
    self.array = np.asarray(rng.standard_normal(shape), np.float32)
    self.reads = []

  def read(self, index) -> np.ndarray:
    self.reads.append(self.array[index].nbytes)
    return self.array[index]

  def promise(self, sharding=None) -> stream.Promise:
    shape, dtype = self.array.shape, self.array.dtype
    return stream.Promise(shape, dtype, sharding, lambda: self.read)


@pytest.fixture(autouse=True)
def small(monkeypatch):
  monkeypatch.setattr(stream, "_PART", 2**14)
  monkeypatch.setattr(stream, "_ROW", 2**12)


@pytest.fixture
def saved(tmp_path):
  """Write a tree of promises and return what was stored, by path."""

  def save(**params):
    stream.write(tmp_path, params)
    return stream.read(tmp_path / "0", "params", params)

  return save


def test_layers_are_made_written_and_read_one_by_one(saved):
  noted = Noted((6, 64, 64))  # A layer is as much as is written at once.
  stored = saved(x=noted.promise())["x"]
  assert noted.reads == 6 * [2**14]
  numerics.assert_same(stored.read((slice(4, 5),)), noted.array[4:5])
  numerics.assert_same(stored.read(), noted.array)


def test_small_layers_are_written_together_and_read_one_by_one(saved):
  noted = Noted((6, 32, 48))
  stored = saved(x=noted.promise())["x"]
  assert noted.reads == 3 * [2 * 32 * 48 * 4]
  numerics.assert_same(stored.read((slice(4, 5),)), noted.array[4:5])


def test_what_has_no_layers_is_not_stored_by_rows(saved):
  noted = Noted((512, 16))
  stored = saved(x=noted.promise())["x"]
  assert noted.reads == 2 * [2**14]
  numerics.assert_same(stored.read(), noted.array)


@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_small_parameters_are_written_whole(saved, shape):
  noted = Noted(shape)
  numerics.assert_same(saved(x=noted.promise())["x"].read(), noted.array)


def test_what_cannot_be_written_is_an_error_of_the_system(saved):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**13, limits[1]))
  try:
    with pytest.raises(OSError, match="File too large"):
      saved(x=Noted((6, 64, 64)).promise())
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("axes", [(None, "a"), ("a",), (None, "b", "a"), ()])
def test_every_part_of_devices_is_written_once(saved, axes):
  mesh = Mesh(np.reshape(jax.devices(), (4, 2)), ("a", "b"))
  sharding = NamedSharding(mesh, PartitionSpec(*axes))
  noted = Noted((4, 64, 128))
  array = jax.device_put(noted.array, sharding)
  made = functools.partial(stream.held, array)
  held = stream.Promise(array.shape, array.dtype, sharding, made)
  stored = saved(held=held, x=noted.promise(sharding))
  assert sum(noted.reads) == noted.array.nbytes
  assert max(noted.reads) <= max(2**14, noted.array[0].nbytes)
  numerics.assert_same(stored["x"].read(), noted.array)
  numerics.assert_same(stored["held"].read(), noted.array)


class Counting:
  """A store that counts how often the whole of it is read."""

  def __init__(self, store):
    self.store, self.wholes = store, 0

  def __getattr__(self, name):
    return getattr(self.store, name)

  def __getitem__(self, index):
    return self.store[index]

  def read(self):
    self.wholes += 1
    return self.store.read()


def count(params):
  """Replace the stores of what was saved by such that count."""
  for x in params.values():
    x._store = Counting(x._store)
  return [x._store for x in params.values()]


def test_layers_of_a_sharded_parameter_are_read_one_by_one(saved):
  mesh = Mesh(np.array(jax.devices()), "a")
  noted = Noted((6, 128, 64))  # No device has as much as is written at once.
  sharding = NamedSharding(mesh, PartitionSpec(None, "a"))
  stored = saved(x=noted.promise(sharding))
  (store,) = count(stored)
  numerics.assert_same(stored["x"].read((slice(4, 5),)), noted.array[4:5])
  assert store.wholes == 0


def test_what_must_be_read_whole_is_read_once_beside_small_ones(saved):
  large, other = Noted((1024, 8)), Noted((1024, 8))
  small = {name: Noted((16, 8)) for name in ("down", "up")}
  arrays = dict(large=large, **small, other=other)
  stored = saved(**{name: x.promise() for name, x in arrays.items()})
  stores = count(stored)
  for names in (("large", "down", "up"), ("other", "down", "up")):
    for row in range(3):
      for name in names:
        part = stored[name].read((slice(row, row + 1),))
        numerics.assert_same(part, arrays[name].array[row : row + 1])
  assert [x.wholes for x in stores] == [1, 1, 1, 1]
  assert stored["large"] not in stored["large"]._whole


def test_what_is_read_is_not_broadcast(saved):
  noted = Noted((4, 8))
  promise = noted.promise()
  short = stream.Promise(
    promise.shape, promise.dtype, None, lambda: lambda _: noted.array[:1]
  )
  with pytest.raises(AssertionError):
    saved(x=short)
