"""Flow matching: a straight path from noise to data, and its velocity.

  x_t = (1 - t) eps + t x1        t = 1 is data
  loss = |model(x_t, t, condition) - (x1 - eps)|^2

with t ~ sigmoid(normal(0, 1)), moved towards noise by t' = t / (t + s (1 - t)).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

Model = Callable[[Array, Array, Any], Array]


@dataclasses.dataclass(frozen=True)
class FlowConfig:
  """shift: s above 0; 1 leaves t alone, more than 1 favours noise."""

  shift: float

  def __post_init__(self):
    if self.shift <= 0:
      raise ValueError(f"shift={self.shift}: must be above 0")


T = TypeVar("T", Float[Array, "*B"], Float[np.ndarray, "*B"])


def shift_time(t: T, shift: float) -> T:
  """Return t / (t + shift (1 - t))."""
  return t / (t + shift * (1 - t))


def draw(
  keys: Key[Array, "B"], shape: tuple[int, ...], shift: float
) -> tuple[Float[Array, "B"], Float[Array, "B *X"]]:
  """Draw a flow time and noise of a shape for each clip.

  Each has a key of its own, so that what is drawn does not depend on where the
  clip lies or on how a batch is parted.
  """
  time_keys, noise_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  logits = jax.vmap(jax.random.normal)(time_keys)
  eps = jax.vmap(lambda key: jax.random.normal(key, shape))(noise_keys)
  return shift_time(jax.nn.sigmoid(logits), shift), eps


def interpolate(
  x1: Float[Array, "B *X"], eps: Float[Array, "B *X"], t: Float[Array, "B"]
) -> Float[Array, "B *X"]:
  """Return x_t."""
  t = t.reshape(-1, *[1] * (x1.ndim - 1))
  return (1 - t) * eps + t * x1


def loss(
  model: Model,
  x1: Float[Array, "B f h w c"],
  condition: Any,
  keys: Key[Array, "B"],
  config: FlowConfig,
) -> Float[Array, ""]:
  """Return the mean squared error of the predicted velocity.

  keys: one for each clip.
  """
  x1 = x1.astype(jnp.float32)
  t, eps = draw(keys, x1.shape[1:], config.shift)
  velocity = model(interpolate(x1, eps, t), t, condition)
  return jnp.mean(jnp.square(velocity.astype(jnp.float32) - (x1 - eps)))
