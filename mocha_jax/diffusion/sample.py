"""From noise to data: the times of the steps, and Euler along them.

The linear-quadratic schedule (Movie Gen) takes half of its n steps up to
t = 0.1, evenly, and the rest on the parabola that goes on with the same slope
and ends at 1; for n = 50, t_i = i / 250 up to i = 25, then
0.00128 i^2 - 0.06 i + 0.8.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mocha_jax.diffusion.flow import Model, shift_time

LINEAR_END = 0.1


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """How clips are sampled.

  steps: of Euler, at least 2.
  schedule: "linear_quadratic", or "shifted_linear" with its shift.
  speech_guidance, text_guidance: scales, see `guidance`.
  batch_size: clips that are sampled together.
  """

  steps: int
  schedule: Literal["linear_quadratic", "shifted_linear"]
  shift: float
  speech_guidance: float
  text_guidance: float
  batch_size: int

  def __post_init__(self):
    if self.steps < 2:
      raise ValueError(f"steps={self.steps}: at least 2")
    if self.shift <= 0:
      raise ValueError(f"shift={self.shift}: must be above 0")
    if self.batch_size < 1:
      raise ValueError(f"batch_size={self.batch_size}: at least 1")


def linear_quadratic(steps: int) -> Float[np.ndarray, "n1"]:
  """Return the steps + 1 times from 0 to 1."""
  half = steps // 2
  slope = LINEAR_END / half
  past = np.maximum(np.arange(steps + 1) - half, 0)
  left = steps - half
  curve = (1 - LINEAR_END - slope * left) / left**2
  return slope * np.arange(steps + 1) + curve * past**2


def times(config: SampleConfig) -> Float[np.ndarray, "n1"]:
  """Return the times that the config asks for."""
  if config.schedule == "linear_quadratic":
    return linear_quadratic(config.steps)
  return shift_time(np.linspace(0, 1, config.steps + 1), config.shift)


def euler(
  model: Model,
  noise: Float[Array, "B f h w c"],
  condition,
  at: Float[np.ndarray, "n1"],
) -> Float[Array, "B f h w c"]:
  """Integrate dx/dt = model(x, t, condition) from t = 0 to 1."""

  def step(x, span):
    start, end = span[0], span[1]
    t = jnp.full(x.shape[0], start)
    return x + (end - start) * model(x, t, condition), None

  spans = jnp.asarray(np.stack([at[:-1], at[1:]], axis=1), jnp.float32)
  return jax.lax.scan(step, noise, spans)[0]
