"""Weights of 14 billion numbers, in files that are mostly holes."""

import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mocha_jax import config as configs
from mocha_jax import run
from mocha_jax.weights import files, tables, wan
from tests import command, numerics

LIMIT = 3 * 10**8  # Bytes of the largest part that may be read at once.


@pytest.fixture(scope="module")
def network():
  return run.make_network(configs.load("mocha_wan_14b"))


@pytest.fixture(scope="module")
def leaves(network):
  return tables.bind(
    wan.original(2, network.shapes), network.shapes, network.letters
  )


def dig(path: pathlib.Path, leaves) -> dict[str, dict]:
  """Write the header of a file as released, and a hole; return the header."""
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
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + end)
  return header


@pytest.fixture(scope="module")
def sparse(leaves, tmp_path_factory) -> pathlib.Path:
  """Make a file of 57 GB that holds a few numbers."""
  path = tmp_path_factory.mktemp("sparse") / "wan.safetensors"
  header = dig(path, leaves)
  with path.open("r+b") as file:
    size = int.from_bytes(file.read(8), "little")
    name = "blocks.39.self_attn.o.weight"  # [D (N H)], head 7 of 40.
    file.seek(8 + size + header[name]["data_offsets"][0])
    file.seek(4 * (3 * 5120 + 7 * 128), 1)
    file.write(np.arange(128, dtype=np.float32).tobytes())
  return path


def test_every_tensor_of_14b_has_its_place(network, sparse):
  tensors = files.open_tensors(sparse)
  plan = tables.plan(
    wan.original(2, network.shapes),
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


def peak(*arguments: object, cwd: pathlib.Path) -> int:
  """Run a verb in a process of its own; return the most bytes it held."""
  code = """
import pathlib
from mocha_jax import main
assert main.run() == 0
print(pathlib.Path("/proc/self/status").read_text())
"""
  done = subprocess.run(
    [sys.executable, "-c", code, *map(str, arguments)],
    cwd=cwd,
    env=os.environ | command.on_devices(1),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
  assert found
  return int(found[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_import_and_export_hold_a_part_of_the_weights(tmp_path):
  config = configs.load("mocha_wan_14b")
  config.update_from_flattened_dict({"model.layers": 4})
  network = run.make_network(config)
  leaves = tables.bind(
    wan.original(2, network.shapes), network.shapes, network.letters
  )
  header = dig(tmp_path / "wan.safetensors", leaves)
  largest = max(4 * math.prod(entry["shape"]) for entry in header.values())
  verb = ("import", "--config", "mocha_wan_14b", "--config.model.layers=4")
  given = ("--from", "wan.safetensors", "--run", "run")
  held = peak(*verb, *given, cwd=tmp_path)
  given = ("--format", "safetensors", "--out", "out")
  held_out = peak("export", "--run", "run", *given, cwd=tmp_path)
  for folder in ("run", "out"):
    shutil.rmtree(tmp_path / folder)  # Pytest would keep their 17 GB.
  assert max(held, held_out) <= largest + 2 * 10**9
