"""What a chip can do at best, as its vendor publishes it.

TPUs: the tables of docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x).
GPUs: NVIDIA's data sheets, without sparsity.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of chip.

  flops: peak per second and chip, dense bfloat16 matrix products.
  kinds: how JAX's `device_kind` of its devices begins.
  """

  name: str
  flops: float
  kinds: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tpu(Chip):
  """A generation of TPU.

  bandwidth: of its main memory, bytes per second.
  clock: cycles per second, as the peak implies.
  unit: width of a matrix unit.
  devices: that JAX sees of a chip.
  cores: of a device.
  """

  bandwidth: float
  clock: float
  unit: int
  devices: int
  cores: int


# By the names that Cloud gives them.
TPUS = {
  "v5e": Tpu(
    "TPU v5e", 197e12, ("TPU v5 lite", "TPU v5e"), 819e9, 1.5e9, 128, 1, 1
  ),
  "v5p": Tpu(
    "TPU v5p", 459e12, ("TPU v5", "TPU v5p"), 2765e9, 1.75e9, 128, 1, 2
  ),
  "v6e": Tpu(
    "TPU v6e", 918e12, ("TPU v6 lite", "TPU v6e"), 1638e9, 1.75e9, 256, 1, 1
  ),
  "tpu7x": Tpu("TPU7x", 2307e12, ("TPU7x", "TPU v7"), 7380e9, 2.2e9, 256, 2, 1),
}
CHIPS = (
  Chip("TPU v4", 275e12, ("TPU v4",)),
  *TPUS.values(),
  Chip("A100", 312e12, ("NVIDIA A100",)),
  Chip("H100 SXM", 989e12, ("NVIDIA H100 80GB HBM3",)),
  Chip("H100 PCIe", 756e12, ("NVIDIA H100 PCIe",)),
  Chip("H200", 989e12, ("NVIDIA H200",)),
  Chip("B200", 2250e12, ("NVIDIA B200",)),
)


def chip_of(device_kind: str) -> Chip | None:
  """Return the kind of chip of a JAX device; None if it has no known peak."""
  found = [
    (len(kind), chip)
    for chip in CHIPS
    for kind in chip.kinds
    if device_kind.startswith(kind)
  ]
  return max(found, key=lambda pair: pair[0])[1] if found else None


def count_chips(devices: Sequence[Any]) -> int:
  """Return on how many chips so many devices lie.

  Most chips are one device; each of some TPUs (v4 by choice, tpu7x) is two,
  which share their coordinates.
  """
  return len({_place(device) for device in devices})


def devices_per_chip(devices: Sequence[Any]) -> int:
  """Return how many devices a chip of this kind is, used here or not."""
  return 1 + max(getattr(device, "core_on_chip", 0) for device in devices)


def _place(device: Any) -> tuple:
  """Return what the devices of one chip, and they alone, have in common."""
  if not hasattr(device, "coords"):
    return (device.id,)
  return (getattr(device, "slice_index", 0), *device.coords)
