import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax.diffusion import flow
from tests import numerics

SHAPE = (4, 3, 2, 2, 5)


def keys(clips: int):
  return jax.random.split(jax.random.key(0), clips)


def test_loss_of_the_true_velocity_is_zero():
  x1 = jax.random.normal(jax.random.key(1), SHAPE)
  # With x1 known, v = (x1 - x_t) / (1 - t).
  model = lambda x_t, t, _: (x1 - x_t) / (1 - t).reshape(-1, 1, 1, 1, 1)
  loss = flow.loss(model, x1, None, keys(len(x1)), flow.FlowConfig(1.0))
  assert float(loss) < 1e-9


def test_loss_of_zero_is_the_energy_of_data_and_noise():
  x1 = 2 * jnp.ones((64, 8, 4, 4, 8))
  model = lambda x_t, t, _: jnp.zeros_like(x_t)
  loss = flow.loss(model, x1, None, keys(len(x1)), flow.FlowConfig(1.0))
  np.testing.assert_allclose(loss, 5, rtol=0.02)


def test_path_goes_from_noise_to_data():
  x1, eps = jnp.ones(SHAPE), -jnp.ones(SHAPE)
  numerics.assert_same(flow.interpolate(x1, eps, jnp.ones(4)), x1)
  numerics.assert_same(flow.interpolate(x1, eps, jnp.zeros(4)), eps)


def test_shift_favours_noise_and_keeps_the_ends():
  t = jnp.linspace(0, 1, 11)
  shifted = flow.shift_time(t, 3.0)
  assert shifted[0] == 0 and shifted[-1] == 1
  assert (shifted[1:-1] < t[1:-1]).all()
  numerics.assert_close(flow.shift_time(t, 1.0), t, jnp.float32)


def test_time_is_a_squashed_normal():
  t, _ = flow.draw(keys(100_000), (1,), 1.0)
  logit = jnp.log(t / (1 - t))
  np.testing.assert_allclose([logit.mean(), logit.std()], [0, 1], atol=0.02)


def test_noise_of_a_clip_does_not_depend_on_the_others():
  t, eps = flow.draw(keys(8), SHAPE[1:], 3.0)
  some_t, some_eps = flow.draw(keys(8)[2:5], SHAPE[1:], 3.0)
  numerics.assert_same(some_t, t[2:5])
  numerics.assert_same(some_eps, eps[2:5])
  assert len(jnp.unique(eps)) == eps.size


def test_shift_that_is_not_positive_is_refused():
  with pytest.raises(ValueError, match=r"shift=0.0.*above 0"):
    flow.FlowConfig(0.0)
