"""AdamW with warm-up and clipping."""

import dataclasses
from typing import Any, Literal

import jax
import optax

from mocha_jax.sections import positive


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """The optimizer.

  schedule: what follows the warm-up: "constant" (MoCha), or "cosine" down to
    nothing at decay_steps.
  clip_norm: the global norm of the gradient is at most this.
  """

  learning_rate: float
  warmup_steps: int
  schedule: Literal["constant", "cosine"]
  decay_steps: int
  b1: float
  b2: float
  eps: float
  weight_decay: float
  clip_norm: float

  def __post_init__(self):
    positive(self, "learning_rate", "eps", "clip_norm")
    if self.warmup_steps < 0 or self.weight_decay < 0:
      raise ValueError(
        f"warmup_steps={self.warmup_steps} and "
        f"weight_decay={self.weight_decay} must not be negative"
      )
    if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
      raise ValueError(f"b1={self.b1}, b2={self.b2}: must be in [0, 1)")
    if self.schedule == "cosine" and self.decay_steps <= self.warmup_steps:
      raise ValueError(
        f"decay_steps={self.decay_steps}: must be more than "
        f"warmup_steps={self.warmup_steps}"
      )


def learning_rate(config: OptimConfig) -> optax.Schedule:
  """Return the learning rate as a function of the step."""
  if config.schedule == "cosine":
    return optax.warmup_cosine_decay_schedule(
      0.0, config.learning_rate, config.warmup_steps, config.decay_steps
    )
  if not config.warmup_steps:
    return optax.constant_schedule(config.learning_rate)
  return optax.warmup_constant_schedule(
    0.0, config.learning_rate, config.warmup_steps
  )


def make_optimizer(
  config: OptimConfig, letters: Any
) -> optax.GradientTransformation:
  """Build the optimizer for parameters of these letters.

  What has one letter or an axis without one, as biases, norms and tables of
  modulation, is not decayed.
  """
  matrices = jax.tree.map(
    lambda named: len(named.split()) > 1 and "_" not in named, letters
  )
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      learning_rate(config),
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=matrices,
    ),
  )
