import dataclasses
from typing import Any

import numpy as np
import pytest

from mocha_jax.compilation import hlo, network, topology


@dataclasses.dataclass(frozen=True)
class Core:
  """A device of a pod, as far as wires go."""

  id: int
  coords: tuple[int, ...]
  slice_index: int = 0


@dataclasses.dataclass(frozen=True)
class Mesh:
  """A mesh of devices that JAX does not know."""

  devices: Any
  axis_names: tuple[str, ...]
  size: int


def wiring(
  name: str, axes: dict[str, int], slices: int = 1, per_chip: int = 1
) -> network.Wiring:
  """Lay the axes over a pod's devices in the order of their coordinates."""
  pod = topology.parse(name, slices)
  cores = [
    Core(0, place, slice_index)
    for slice_index in range(slices)
    for place in np.ndindex(*pod.shape)
    for _ in range(per_chip)
  ]
  devices = np.array(cores, dtype=object).reshape(tuple(axes.values()))
  mesh: Any = Mesh(devices, tuple(axes), devices.size)
  return network.Wiring(mesh, pod)


def collective(where: network.Wiring, kind: str, groups: str, size: str):
  text = (
    "ENTRY %main (a: bf16[8]) -> bf16[8] {\n"
    f"  %a = {size} parameter(0)\n"
    f"  ROOT %c = {size} {kind}(%a), {groups}\n"
    "}\n"
  )
  entry = hlo.parse(text).entry
  return where.collective(kind, entry["c"], entry)


@pytest.mark.parametrize(
  ("groups", "axes"),
  [
    ("replica_groups=mesh['x'=4,'y'=16] {'y'}", "fsdp"),
    ("replica_groups=mesh['x'=4,'y'=16] {'x'}", "data"),
    ("replica_groups=mesh['x'=4,'y'=16] {'x','y'}", "data x fsdp"),
    ("replica_groups=mesh['x'=64] {'x':(4)16}", "fsdp"),
    (
      "replica_groups=mesh['x'=16,'y'=4], device_ids=([4,16]T(1,0)) {'y'}",
      "data",
    ),
    ("replica_groups=[4,16]<=[64]", "fsdp"),
    ("replica_groups=[16,4]<=[4,16]T(1,0)", "data"),
    ("replica_groups={{0,16,32,48},{1,17,33,49}}", "data"),
    ("replica_groups={}", "data x fsdp"),
    ("replica_groups={{0},{1}}", "none"),
  ],
)
def test_axes_of_a_group_are_named(groups, axes):
  where = wiring("v5p:4x4x4", {"data": 4, "fsdp": 16})
  assert collective(where, "all-reduce", groups, "f32[64]").axes == axes


def test_all_gather_over_a_ring_uses_both_of_its_directions():
  # x is the slowest axis of the shape: a ring of 4, two links to a chip.
  where = wiring("v5p:4x4x4", {"x": 4, "yz": 16})
  shard = 2 * 10**8
  sent = collective(
    where,
    "all-gather",
    "replica_groups=[16,4]<=[4,16]T(1,0)",
    "bf16[100000000]",
  )
  link = topology.parse("v5p:4x4x4", 1).generation.link
  assert sent.bytes == pytest.approx(3 * shard)
  assert sent.seconds == pytest.approx(3 * shard / (2 * link) + 2e-6)


def test_all_reduce_costs_a_scatter_and_a_gather():
  where = wiring("v5p:4x4x4", {"all": 64})
  groups, size = "replica_groups={}", "f32[1000000]"
  whole = collective(where, "all-reduce", groups, size)
  half = collective(where, "reduce-scatter", groups, size)
  assert whole.seconds == pytest.approx(2 * half.seconds)


def test_axis_that_does_not_close_a_ring_has_half_the_bandwidth():
  ring = wiring("v5e:16x16", {"x": 16, "y": 16})
  line = wiring("v5e:8x16", {"x": 8, "y": 16})
  size = "f32[100000000]"
  over = lambda where, groups: collective(where, "all-reduce", groups, size)
  closed = over(ring, "replica_groups=[16,16]<=[16,16]T(1,0)").seconds
  open_ = over(line, "replica_groups=[16,8]<=[8,16]T(1,0)").seconds
  assert open_ / closed == pytest.approx(2 * (7 / 8) / (15 / 16), rel=1e-3)


def test_members_apart_share_their_links_with_those_between():
  where = wiring("v5p:2x2x8", {"xy": 4, "far": 4, "near": 2})
  size = "f32[100000000]"
  near = collective(where, "all-reduce", "replica_groups=[4,8]<=[32]", size)
  apart = collective(
    where, "all-reduce", "replica_groups=[8,4]<=[4,4,2]T(0,2,1)", size
  )
  assert apart.axes == "far"
  assert apart.seconds / near.seconds == pytest.approx(
    2 * (3 / 4) / (7 / 8), rel=1e-3
  )


def test_between_slices_goes_the_network_of_the_data_centre():
  where = wiring("v6e:4x4", {"slice": 2, "fsdp": 16}, slices=2)
  sent = collective(
    where, "all-reduce", "replica_groups=[16,2]<=[2,16]T(1,0)", "f32[1000000]"
  )
  assert sent.axes == "slice"
  assert sent.ici == 0
  assert sent.dcn == pytest.approx(2 * 4e6 / 2 / 12.5e9)


def test_what_hosts_add_up_goes_there_and_back():
  where = wiring("v6e:4x4", {"slice": 2, "fsdp": 16}, slices=2)
  sent = where.between_slices("all-reduce", 1e9)
  assert (sent.axes, sent.ici) == ("slice", 0)
  assert sent.dcn == pytest.approx(1e9 / 12.5e9)


def test_devices_of_a_chip_exchange_without_wires():
  where = wiring("tpu7x:2x2x1", {"chip": 4, "core": 2}, per_chip=2)
  sent = collective(
    where, "all-gather", "replica_groups=[4,2]<=[8]", "bf16[1000000]"
  )
  assert sent.axes == "core"
  assert sent.seconds == 0


def test_groups_of_one_device_a_chip_share_the_links():
  where = wiring("tpu7x:4x4x4", {"chip": 64, "core": 2}, per_chip=2)
  size = "f32[100000000]"
  one = collective(
    where, "all-reduce", "replica_groups=[2,64]<=[64,2]T(1,0)", size
  )
  both = collective(where, "all-reduce", "replica_groups={}", size)
  assert one.seconds / both.seconds == pytest.approx(2, rel=1e-2)
