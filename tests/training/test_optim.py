import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mocha_jax.training import optim

CONFIG = optim.OptimConfig(
  learning_rate=0.1,
  warmup_steps=0,
  schedule="constant",
  decay_steps=0,
  b1=0.9,
  b2=0.99,
  eps=1e-8,
  weight_decay=0.5,
  clip_norm=1.0,
  moments="float32",
)
LETTERS = dict(kernel="D N H", bias="D", stacked_norm="D", gates="_ _ D")
PARAMS = dict(
  kernel=jnp.ones((4, 2, 2)),
  bias=jnp.ones(4),
  stacked_norm=jnp.ones((3, 4)),  # Of three layers.
  gates=jnp.ones((3, 2, 3, 4)),
)


def update(config, gradients) -> Any:
  optimizer = optim.make_optimizer(config, LETTERS)
  updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
  return optax.apply_updates(PARAMS, updates)


def test_only_matrices_decay_also_where_layers_are_stacked():
  new = update(CONFIG, jax.tree.map(jnp.zeros_like, PARAMS))
  np.testing.assert_allclose(new["kernel"], 1 - 0.1 * 0.5)
  for name in ("bias", "stacked_norm", "gates"):
    np.testing.assert_array_equal(new[name], 1)


def test_gradient_is_clipped_by_its_global_norm():
  # Adam hides scale, so look at the clipped gradient in its first moment.
  optimizer = optim.make_optimizer(CONFIG, LETTERS)
  gradients = jax.tree.map(lambda p: 100 * jnp.ones_like(p), PARAMS)
  _, state = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
  moment = optax.tree.get(state, "mu")
  np.testing.assert_allclose(
    optax.tree.norm(moment), (1 - CONFIG.b1) * CONFIG.clip_norm, rtol=1e-5
  )


@pytest.mark.parametrize(
  ("schedule", "warmup", "want"),
  [
    ("constant", 0, {0: 0.1, 500: 0.1}),
    ("constant", 10, {0: 0.0, 5: 0.05, 10: 0.1, 500: 0.1}),
    ("cosine", 10, {0: 0.0, 10: 0.1, 55: 0.05, 100: 0.0}),
  ],
)
def test_learning_rate_warms_up_and_goes_on_as_asked(schedule, warmup, want):
  config = dataclasses.replace(
    CONFIG, schedule=schedule, warmup_steps=warmup, decay_steps=100
  )
  rate = optim.learning_rate(config)
  for step, value in want.items():
    np.testing.assert_allclose(rate(step), value, atol=1e-7)


@pytest.mark.parametrize(
  "changes",
  [
    dict(learning_rate=0.0),
    dict(warmup_steps=-1),
    dict(b2=1.0),
    dict(schedule="cosine", warmup_steps=5, decay_steps=5),
  ],
)
def test_bad_value_is_refused_by_name(changes):
  with pytest.raises(ValueError, match=[*changes][-1]):
    dataclasses.replace(CONFIG, **changes)


def moments(config, gradients: list[float], size: int = 1) -> Any:
  """The state after these gradients, the same for all of so many weights."""
  params = dict(kernel=jnp.ones((size, 1)))
  optimizer = optim.make_optimizer(config, dict(kernel="D F"))
  step = jax.jit(optimizer.update)
  state = optimizer.init(params)
  for value in gradients:
    _, state = step(optax.tree.scale(value, params), state, params)
  return state


def test_moments_are_stored_as_configured():
  low = dataclasses.replace(CONFIG, moments="bfloat16")
  for config, dtype in ((CONFIG, jnp.float32), (low, jnp.bfloat16)):
    state = moments(config, [1.0])
    assert optax.tree.get(state, "mu")["kernel"].dtype == dtype
    assert optax.tree.get(state, "nu")["kernel"].dtype == dtype


def test_second_moment_in_bfloat16_keeps_up_in_the_mean():
  # Steps of a thousandth: rounded to the nearest, it would stay where it is.
  config = dataclasses.replace(CONFIG, b2=0.999, clip_norm=1e9)
  gradients = [1.0] * 100 + [2.0] * 200
  want = optax.tree.get(moments(config, gradients), "nu")["kernel"]
  low = dataclasses.replace(config, moments="bfloat16")
  got = optax.tree.get(moments(low, gradients, 4096), "nu")["kernel"]
  np.testing.assert_allclose(
    np.asarray(got, np.float64).mean(), float(want[0, 0]), rtol=2e-3
  )


def test_moments_in_bfloat16_change_an_update_by_their_rounding():
  gradients = jax.tree.map(lambda p: 0.1 * jnp.ones_like(p), PARAMS)
  low = dataclasses.replace(CONFIG, moments="bfloat16")
  want, got = update(CONFIG, gradients), update(low, gradients)
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-2)


def test_adam_is_that_of_optax():
  gradients = jax.tree.map(lambda p: 0.1 * jnp.ones_like(p), PARAMS)
  decayed = dict(kernel=True, bias=False, stacked_norm=False, gates=False)
  whole = optax.chain(
    optax.clip_by_global_norm(CONFIG.clip_norm),
    optax.adamw(
      *(optim.learning_rate(CONFIG), CONFIG.b1, CONFIG.b2, CONFIG.eps),
      weight_decay=CONFIG.weight_decay,
      mask=decayed,
    ),
  )
  state = whole.init(PARAMS)
  updates, _ = whole.update(gradients, state, PARAMS)
  want: Any = optax.apply_updates(PARAMS, updates)
  got = update(CONFIG, gradients)
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value)
  # And what is stored has the same shape, so that checkpoints stay readable.
  optimizer = optim.make_optimizer(CONFIG, LETTERS)
  assert jax.tree.structure(optimizer.init(PARAMS)) == jax.tree.structure(state)
