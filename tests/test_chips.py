import dataclasses

import jax
import pytest

from mocha_jax import chips


@dataclasses.dataclass(frozen=True)
class Core:
  """A device of a TPU, as far as counting chips goes."""

  coords: list[int]
  slice_index: int = 0
  core_on_chip: int = 0


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("TPU v5 lite", "TPU v5e"),
    ("TPU v5", "TPU v5p"),
    ("TPU v6 lite", "TPU v6e"),
    ("TPU7x", "TPU7x"),
    ("NVIDIA H200", "H200"),
    ("NVIDIA H100 80GB HBM3", "H100 SXM"),
  ],
)
def test_chip_is_known_by_the_kind_of_its_devices(kind, name):
  chip = chips.chip_of(kind)
  assert chip is not None
  assert chip.name == name


def test_chip_without_a_published_peak_is_none():
  assert chips.chip_of(jax.devices()[0].device_kind) is None


def test_devices_that_share_coordinates_are_one_chip():
  assert chips.count_chips([Core([0, 0, 0])] * 2 + [Core([0, 1, 0])]) == 2
  assert chips.count_chips([Core([0, 0, 0], s) for s in (0, 0, 1)]) == 2


def test_chip_of_two_devices_stays_one_when_half_is_used():
  cores = [Core([0, 0, 0], core_on_chip=1), Core([0, 1, 0], core_on_chip=1)]
  assert chips.count_chips(cores) == 2
  assert chips.devices_per_chip(cores) == 2


def test_other_devices_are_a_chip_each():
  assert chips.count_chips(jax.devices()) == len(jax.devices())
  assert chips.devices_per_chip(jax.devices()) == 1
