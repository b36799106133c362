import types

import jax
import pytest

from mocha_jax import sharding
from mocha_jax.sharding import MeshConfig


def mesh(*shape: int):
  """A mesh of data, fsdp, tensor, context and slice."""
  return sharding.make_mesh(MeshConfig(*shape))


@pytest.mark.parametrize(
  ("letters", "shape", "part"),
  [
    ("D N H", (3, 16, 4, 8), (3, 4, 2, 8)),  # Of three layers.
    ("N H D", (4, 8, 16), (2, 8, 4)),
    ("D F", (16, 6), (4, 3)),
    ("D", (16,), (4,)),
    ("_ _ D", (2, 3, 16), (2, 3, 4)),
    ("E P", (20, 7), (5, 7)),  # Without D, the features are split.
    ("E D", (20, 16), (20, 4)),
    ("D", (6,), (3,)),  # 6 over fsdp alone.
    ("D", (5,), (5,)),
  ],
)
def test_parameters_are_split_as_far_as_they_go(letters, shape, part):
  where = sharding.parameter_sharding(mesh(1, 2, 2, 2, 1), letters, shape)
  assert where.shard_shape(shape) == part


def test_letters_beyond_the_shape_are_refused():
  with pytest.raises(ValueError, match=r"'D N H'.*\(4, 4\)"):
    sharding.parameter_sharding(mesh(1, 8, 1, 1, 1), "D N H", (4, 4))


@pytest.mark.parametrize(
  ("shape", "sizes", "message"),
  [
    ((1, 4, 1, 1, 2), dict(B=12), r"12 clips \(B\).*slice x data x fsdp = 8 "),
    ((1, 4, 2, 1, 1), dict(B=8, N=3), r"3 heads \(N\) .* tensor = 2 .*of 2"),
    ((1, 4, 2, 1, 1), dict(F=5), r"5 feed-forward units \(F\) .*tensor"),
    ((1, 4, 1, 2, 1), dict(f=33), r"33 latent frames \(f\) .*context = 2"),
  ],
)
def test_what_does_not_divide_is_one_clear_line(shape, sizes, message):
  on = mesh(*shape)
  with pytest.raises(ValueError, match=message) as error:
    sharding.check_divides(on, **sizes)
  assert "\n" not in str(error.value)


def test_what_divides_is_taken():
  sharding.check_divides(mesh(1, 2, 2, 2, 1), B=2, f=32, N=48, F=16_384)


@pytest.mark.parametrize(
  "shape",
  [(2, 2, 1, 1, 1), (0, 1, 1, 1, 1), (3, -1, 1, 1, 1), (-1, -1, 1, 1, 1)],
)
def test_mesh_that_does_not_multiply_up_is_refused(shape):
  with pytest.raises(ValueError, match=r"slice, data|multiply") as error:
    mesh(*shape)
  assert "\n" not in str(error.value)


def test_slices_that_the_mesh_does_not_name_are_refused():
  chips = [
    types.SimpleNamespace(platform="tpu", slice_index=i // 4) for i in range(8)
  ]
  with pytest.raises(ValueError, match=r"slice = 1.*lie in 2 slices"):
    sharding.make_mesh(MeshConfig(1, 8, 1, 1, 1), chips)


def test_axes_of_a_clip_lie_on_neighbours():
  devices = mesh(1, 2, 2, 2, 1).devices
  assert [d.id for d in devices.reshape(2, 4)[0]] == [0, 1, 2, 3]
  assert len(jax.devices()) == 8
