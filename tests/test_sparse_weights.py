"""Weights of 14 billion numbers, in files that are mostly holes."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from mocha_jax import config as configs
from mocha_jax import run
from mocha_jax.weights import files, tables, wan
from tests import numerics

LIMIT = 3 * 10**8  # Bytes of the largest part that may be read at once.


@pytest.fixture(scope="module")
def network():
  return run.make_network(configs.load("mocha_wan_14b"))


@pytest.fixture(scope="module")
def leaves(network):
  return tables.bind(wan.original(2), network.shapes, network.letters)


@pytest.fixture(scope="module")
def sparse(leaves, tmp_path_factory) -> pathlib.Path:
  """Write the header of a file as released; its 57 GB are a hole."""
  header, end = {}, 0
  for leaf in leaves.values():
    for name in leaf.names:
      start, end = end, end + 4 * math.prod(leaf.their_shape)
      header[name] = {
        "dtype": "F32",
        "shape": list(leaf.their_shape),
        "data_offsets": [start, end],
      }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  path = tmp_path_factory.mktemp("sparse") / "wan.safetensors"
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    name = "blocks.39.self_attn.o.weight"  # [D (N H)], head 7 of 40.
    file.seek(8 + len(text) + header[name]["data_offsets"][0])
    file.seek(4 * (3 * 5120 + 7 * 128), 1)
    file.write(np.arange(128, dtype=np.float32).tobytes())
    file.truncate(8 + len(text) + end)
  return path


def test_every_tensor_of_14b_has_its_place(network, sparse):
  tensors = files.open_tensors(sparse)
  plan = tables.plan(
    wan.original(2),
    *(network.shapes, network.letters, tensors),
    fresh=wan.FRESH,
  )
  held = sum(math.prod(leaf.shape) for leaf in plan.leaves.values())
  assert 14.2e9 < held < 14.4e9
  assert all(path.startswith(sum(wan.FRESH, ())) for path in plan.fresh)
  assert sparse.stat().st_blocks * 512 < 10**7  # It is a hole indeed.


def test_a_device_reads_its_slice_of_14b(leaves, sparse):
  tensors = files.open_tensors(sparse)
  heads = (slice(38, 40), slice(7, 8))
  out = leaves["blocks.self_attention.out"].read_ours(tensors, heads)
  assert out.shape == (2, 1, 128, 5120)
  numerics.assert_same(out[1, 0, :, 3], np.arange(128, dtype=np.float32))
  assert np.count_nonzero(out) == 127
  columns = (slice(38, 40), slice(None), slice(0, 128))
  up = leaves["blocks.mlp.up.kernel"].read_ours(tensors, columns)
  assert up.shape == (2, 5120, 128)


@dataclasses.dataclass
class Holes:
  """A parameter of zeros that notes the largest part of it that was read."""

  shape: tuple[int, ...]
  dtype: np.dtype
  largest: int = 0

  def read(self, index=()):
    part = np.broadcast_to(self.dtype.type(0), self.shape)[index]
    self.largest = max(self.largest, part.nbytes)
    return part


def test_layers_of_14b_are_written_one_by_one(leaves):
  parameters = {
    path: Holes(leaf.shape, np.dtype(np.float32))
    for path, leaf in leaves.items()
  }
  tensors = {
    name: tensor
    for path, leaf in leaves.items()
    for name, tensor in leaf.their_tensors(parameters[path])
  }
  last = {name: x for name, x in tensors.items() if ".39." in name}
  assert len(last) == 27
  files.write(pathlib.Path("/dev/null"), last)
  assert max(x.largest for x in parameters.values()) <= LIMIT
