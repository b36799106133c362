import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax.batch import Condition
from mocha_jax.diffusion import guidance, sample
from tests import numerics


def test_fifty_steps_are_those_of_movie_gen():
  i = np.arange(51)
  want = np.where(i <= 25, i / 250, 0.00128 * i**2 - 0.06 * i + 0.8)
  np.testing.assert_allclose(sample.linear_quadratic(50), want, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 7, 10, 50, 101])
def test_schedule_rises_from_zero_to_one(steps):
  at = sample.linear_quadratic(steps)
  assert len(at) == steps + 1 and at[0] == 0
  np.testing.assert_allclose(at[-1], 1, atol=1e-12)
  assert (np.diff(at) > 0).all()


CONFIG = sample.SampleConfig(
  steps=10,
  schedule="linear_quadratic",
  shift=1.0,
  speech_guidance=1.0,
  text_guidance=1.0,
  batch_size=1,
)
LATE = dataclasses.replace(CONFIG, schedule="shifted_linear", shift=3.0)


def test_schedule_is_the_one_asked_for():
  np.testing.assert_array_equal(
    sample.times(CONFIG), sample.linear_quadratic(10)
  )
  even = sample.times(dataclasses.replace(LATE, shift=1.0))
  np.testing.assert_allclose(even, np.linspace(0, 1, 11))
  assert (sample.times(LATE)[1:-1] < even[1:-1]).all()


def test_euler_is_exact_where_the_velocity_is_constant():
  noise = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 4))
  data = jnp.ones_like(noise)
  out = sample.euler(
    lambda x, t, c: data - noise, noise, None, sample.linear_quadratic(10)
  )
  numerics.assert_close(out, data, jnp.float32, reduced=10)


def condition(speech: float, text: int) -> Condition:
  return Condition(
    jnp.full((2, 8, 3), speech),
    {"small_text": jnp.full((2, 5), text)},
    {"small_text": jnp.ones((2, 5), bool)},
  )


def linear_model(x_t, t, given: Condition):
  """Answer 100 for text 1 and 10 for speech 1."""
  text = given.text["small_text"][:, 0].astype(jnp.float32)
  level = 100 * text + 10 * given.speech[:, 0, 0] + 1
  return jnp.broadcast_to(level[:, None, None, None, None], x_t.shape)


def test_guidance_is_nested_speech_first():
  scale = guidance.Guidance(speech=7.5, text=3.0)
  model = guidance.nested(linear_model, condition(0, 0), scale)
  x_t = jnp.zeros((2, 2, 1, 1, 1))
  got = model(x_t, jnp.zeros(2), condition(1, 1))
  np.testing.assert_allclose(got, 1 + 7.5 * 10 + 3.0 * 100)


def test_guidance_of_one_follows_the_model():
  scale = guidance.Guidance(speech=1.0, text=1.0)
  model = guidance.nested(linear_model, condition(0, 0), scale)
  x_t = jnp.zeros((2, 2, 1, 1, 1))
  got = model(x_t, jnp.zeros(2), condition(1, 1))
  numerics.assert_same(got, linear_model(x_t, None, condition(1, 1)))


@pytest.mark.parametrize(
  ("speech", "text", "times"), [(1.0, 1.0, 1), (1.0, 2.0, 3), (2.0, 1.0, 3)]
)
def test_guidance_costs_what_it_needs(speech, text, times):
  sizes = []

  def model(x_t, t, condition):
    sizes.append(x_t.shape[0])
    return linear_model(x_t, t, condition)

  scale = guidance.Guidance(speech, text)
  guided = guidance.nested(model, condition(0, 0), scale)
  guided(jnp.zeros((2, 2, 1, 1, 1)), jnp.zeros(2), condition(1, 1))
  assert sizes == [2 * times]


def test_speech_guidance_leaves_a_clip_without_speech_alone():
  x_t, t = jnp.zeros((2, 2, 1, 1, 1)), jnp.zeros(2)
  model = lambda scale: guidance.nested(
    linear_model, condition(0, 0), guidance.Guidance(speech=scale, text=2.0)
  )(x_t, t, condition(0, 1))
  numerics.assert_same(model(1.0), model(12.0))
