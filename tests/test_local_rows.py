"""Which clips of a batch a process supplies, as the mesh has it."""

import jax
import numpy as np
import pytest

from mocha_jax import sharding

# Processes of two devices each, by the order of the devices.
PAIRS = [(0, 1), (2, 3), (4, 5), (6, 7)]


def mesh(**sizes: int):
  one = dict.fromkeys(sharding.AXES, 1)
  return sharding.make_mesh(sharding.MeshConfig(**one | sizes))


def rows(over, batch_size: int, process: int) -> tuple[int, ...]:
  devices = tuple(over.devices.flatten()[i] for i in PAIRS[process])
  return sharding.local_rows(over, batch_size, devices)


@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_processes_share_the_rows_where_clips_are_split(axis):
  split = mesh(**{axis: 8})
  held = [rows(split, 16, process) for process in range(4)]
  assert held == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15)]


def test_processes_hold_the_same_rows_where_heads_span_them():
  spanning = mesh(fsdp=2, tensor=4)
  held = [rows(spanning, 4, process) for process in range(4)]
  assert held == [(0, 1), (0, 1), (2, 3), (2, 3)]


def test_a_process_may_hold_rows_that_lie_apart():
  # Process 0 has the first device of the first half, and of the second.
  apart = mesh(data=2, fsdp=4)
  devices = (apart.devices.flatten()[0], apart.devices.flatten()[4])
  assert sharding.local_rows(apart, 16, devices) == (0, 1, 8, 9)


def test_one_process_holds_all_rows():
  assert sharding.local_rows(mesh(fsdp=-1), 16) == tuple(range(16))


def test_placed_batch_is_the_batch_split_as_asked():
  split = mesh(fsdp=8)
  batch = {"x": np.arange(32.0).reshape(16, 2)}
  placed = sharding.place(batch, split, 16)["x"]
  np.testing.assert_array_equal(placed, batch["x"])
  assert placed.sharding.shard_shape(placed.shape) == (2, 2)
  assert len(placed.addressable_shards) == len(jax.devices())
