"""How long a collective takes on a pod's wires, and over which axes it goes.

With S the bytes of the whole array, n chips and B the bandwidth of a chip,

  all-gather, reduce-scatter   S (n - 1) / n / B
  all-reduce                   twice that
  all-to-all                   sum over the axes of the shape of S n_d / 4 B_d,
                               S now the bytes of one chip
  permute                      S / link x hops

B is the sum of B_d over the axes of the pod's shape that a group spans: two
links if it closes a ring there, else one; a group whose members lie s chips
apart shares its links with s - 1 others. Each hop takes another microsecond.
Two devices of one chip share its links. What goes between slices goes chip by
chip over the data centre's network, before or after the part within slices.
"""

import dataclasses
import math
import re

import numpy as np
from jax.sharding import Mesh

from mocha_jax.compilation.hlo import Computation, Instruction
from mocha_jax.compilation.topology import Pod

HOP = 1e-6  # Seconds; jax-ml/scaling-book, "Sharded matrices".

_MESH = re.compile(
  r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? {([^}]*)}"
)
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_USED = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_IOTA = re.compile(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?")
_LIST = re.compile(r"replica_groups={({[\d,]*})?")
_PAIRS = re.compile(r"source_target_pairs={{(\d+),(\d+)}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective.

  bytes: that a device sends over the wires; axes: of the mesh.
  ici, dcn: seconds that each network takes.
  """

  kind: str
  axes: str
  bytes: float
  ici: float
  dcn: float

  @property
  def seconds(self) -> float:
    """How long it takes when nothing else is sent."""
    return self.ici + self.dcn


class Wiring:
  """Where the devices of a mesh lie on a pod."""

  def __init__(self, mesh: Mesh, pod: Pod):
    self._mesh, self._pod = mesh, pod
    devices = mesh.devices.flatten().tolist()
    self._slices = np.array(
      [getattr(d, "slice_index", None) or 0 for d in devices]
    )
    self._places = np.array([d.coords for d in devices])
    self.devices_per_chip = len(devices) // pod.chips

  def collective(
    self, kind: str, instruction: Instruction, computation: Computation
  ) -> Collective:
    """Say what a collective instruction does.

    kind: one of `hlo.COLLECTIVES`; an all-reduce of which each device keeps
      its part is a reduce-scatter.
    """
    group = group_of(instruction, self._mesh.size)
    sent = sum(
      a.bytes for n in instruction.operands for a in computation[n].arrays
    )
    whole = sent * len(group) if kind == "all-gather" else sent
    axes = " x ".join(crossed(group, self._mesh)) or "none"
    if len(group) < 2:
      return Collective(kind, axes, 0.0, 0.0, 0.0)
    slices = len(set(self._slices[group]))
    members = len(group) // slices
    times = {"all-reduce": 2, "collective-permute": 0}.get(kind, 1)
    within = group[self._slices[group] == self._slices[group[0]]]
    if kind == "collective-permute":
      moved = sent
    else:
      moved = times * whole * (len(group) - 1) / len(group)
    dcn = 0.0
    if slices > 1:
      share = (
        sent
        if kind in ("all-to-all", "collective-permute")
        else whole / members
      )
      dcn = (
        max(times, 1) * share * (slices - 1) / slices / self._pod.generation.dcn
      )
    ici = (
      self._within(kind, within, whole, max(times, 1)) if members > 1 else 0.0
    )
    return Collective(kind, axes, moved, ici, dcn)

  def between_slices(self, kind: str, sent: float) -> Collective:
    """Say what a transfer does that goes through hosts, from slice to slice.

    sent: bytes that a device gives to its host.
    """
    slices, times = self._pod.slices, 2 if kind == "all-reduce" else 1
    moved = times * sent * (slices - 1) / slices
    dcn = self.devices_per_chip * moved / self._pod.generation.dcn
    return Collective(kind, "slice", moved, 0.0, dcn)

  def _within(
    self, kind: str, group: np.ndarray, whole: float, times: int
  ) -> float:
    """Return the seconds of a collective within a slice."""
    places = np.unique(self._places[group], axis=0)
    chips = len(places)
    if chips == 1:
      return 0.0  # Between the devices of one chip.
    # Devices of a chip in groups of their own send at the same time.
    sharing = self.devices_per_chip if chips == len(group) else 1
    lanes = [self._lane(places, axis) for axis in range(places.shape[1])]
    lanes = [lane for lane in lanes if lane is not None]
    hops = sum(hops for _, _, hops in lanes)
    if kind == "collective-permute":
      return sharing * whole * hops / self._pod.generation.link + hops * HOP
    if kind == "all-to-all":
      mine = whole * len(group) / chips
      seconds = sum(mine * n / 4 / bandwidth for n, bandwidth, _ in lanes)
      return sharing * seconds + hops * HOP
    bandwidth = sum(bandwidth for _, bandwidth, _ in lanes)
    seconds = whole * (chips - 1) / chips / bandwidth
    return times * (sharing * seconds + hops * HOP)

  def _lane(
    self, places: np.ndarray, axis: int
  ) -> tuple[int, float, float] | None:
    """Return members, bandwidth and hops along one axis of the pod's shape."""
    along = np.unique(places[:, axis])
    if len(along) < 2:
      return None
    generation, length = self._pod.generation, self._pod.shape[axis]
    stride = int(np.gcd.reduce(np.diff(along)))
    span = len(along) * stride
    ring = span == length and not length % generation.wraps
    links = 2 if ring else 1
    hops = span / 2 if ring else span - stride
    return len(along), links * generation.link / stride, hops


def crossed(group: np.ndarray, mesh: Mesh) -> tuple[str, ...]:
  """Return the axes of a mesh along which the members of a group differ."""
  at = np.unravel_index(group, mesh.devices.shape)
  return tuple(
    name
    for name, index in zip(mesh.axis_names, at, strict=True)
    if len(set(index.tolist())) > 1
  )


def group_of(instruction: Instruction, devices: int) -> np.ndarray:
  """Return the first group of a collective, as places among the devices."""
  text = instruction.attributes
  everyone = np.arange(devices)
  if pair := _PAIRS.search(text):
    return np.array([int(pair[1]), int(pair[2])])
  if found := _MESH.search(text):
    return _named_group(found, everyone)
  if found := _LIST.search(text):
    inside = (found[1] or "{}").strip("{}")
    return np.array([int(n) for n in inside.split(",")]) if inside else everyone
  found = re.search(r"replica_groups=(\[\S+)", text)
  if not found:
    return everyone
  return _iota(found[1])[0]


def _iota(text: str) -> np.ndarray:
  """Read [4,2]<=[2,4]T(1,0): 0, 1, … shaped, transposed, shaped again."""
  found = _IOTA.search(text)
  assert found, text
  final = _ints(found[1])
  dims = _ints(found[2]) if found[2] else final
  ids = np.arange(math.prod(dims)).reshape(dims)
  if found[3]:
    ids = ids.transpose(_ints(found[3]))
  return ids.reshape(final) if found[2] else ids


def _named_group(found: re.Match[str], everyone: np.ndarray) -> np.ndarray:
  """Read a group given by the axes of a mesh of the compiler's own.

  mesh['a'=4,'b'=2] {'b'} are pairs; an axis can be used in part, as
  'a':(2)2, the second half of its factors.
  """
  sizes = [(name, int(size)) for name, size in _AXIS.findall(found[1])]
  ids = _iota(found[2]) if found[2] and "[" in found[2] else everyone
  if found[2] and "[" not in found[2]:
    ids = np.array(_ints(found[2]))
  used = {
    name: (int(before or 1), int(size or 0))
    for name, before, size in _USED.findall(found[3])
  }
  shape: list[int] = []
  keep: list[bool] = []
  for name, size in sizes:
    before, part = used.get(name, (1, 0))
    part = part or size
    pieces = [
      (before, False),
      (part, name in used),
      (size // before // part, False),
    ]
    shape += [n for n, _ in pieces]
    keep += [kept for _, kept in pieces]
  ids = ids.reshape(shape)
  return ids[tuple(slice(None) if kept else 0 for kept in keep)].reshape(-1)


def _ints(text: str) -> tuple[int, ...]:
  return tuple(int(n) for n in text.split(",") if n.strip())
