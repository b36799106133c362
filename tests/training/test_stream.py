"""Parameters written and read a part at a time."""

import functools

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
