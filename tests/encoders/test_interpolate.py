import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax.encoders.interpolate import interpolate
from tests import numerics


def test_ends_stay_and_what_lies_between_is_on_the_line():
  x = jnp.asarray([[0.0, 10.0, 40.0]])[..., None]
  got = interpolate(x, 5)[0, :, 0]
  np.testing.assert_array_equal(got, [0, 5, 10, 25, 40])


@pytest.mark.parametrize("count", [2, 9, 31, 60])
def test_ramp_stays_a_ramp(count):
  x = jnp.linspace(-1, 2, 31)[None, :, None]
  want = jnp.linspace(-1, 2, count)[None, :, None]
  numerics.assert_close(interpolate(x, count), want, np.float32)


def test_as_many_as_there_are_stay_as_they_are():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 3)), jnp.float32)
  numerics.assert_same(interpolate(x, 7), x)


def test_one_is_the_first():
  x = jnp.arange(6.0).reshape(1, 3, 2)
  np.testing.assert_array_equal(interpolate(x, 1), x[:, :1])
