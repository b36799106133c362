"""AdamW with warm-up and clipping."""

import dataclasses
from typing import Literal

import jax
import optax


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
  return optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
  """Build the optimizer; vectors and norms are not decayed."""
  matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
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
