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
