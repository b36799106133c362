"""AdamW with warm-up and clipping."""

import dataclasses
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import optax

from mocha_jax.sections import positive


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """The optimizer.

  schedule: what follows the warm-up: "constant" (MoCha), or "cosine" down to
    nothing at decay_steps.
  clip_norm: the global norm of the gradient is at most this.
  moments: the type that Adam's two moments are stored in.
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
  moments: Literal["float32", "bfloat16"]

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
  modulation, is not decayed; N and H together count as one.
  """
  matrices = jax.tree.map(
    lambda named: (
      named != "N H" and len(named.split()) > 1 and "_" not in named
    ),
    letters,
  )
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.chain(  # As optax.adamw, but for how moments are stored.
      _adam(config),
      optax.add_decayed_weights(config.weight_decay, matrices),
      optax.scale_by_learning_rate(learning_rate(config)),
    ),
  )


def _adam(config: OptimConfig) -> optax.GradientTransformation:
  """Return Adam, its moments stored as configured and computed in float32.

  A second moment in bfloat16 is rounded up or down by chance: its steps, a
  hundredth of it or less, are near or below bfloat16's precision (1/256), and
  rounded to the nearest it would stand still.
  """
  exact = optax.scale_by_adam(config.b1, config.b2, config.eps)
  if config.moments == "float32":
    return exact

  def init(params):
    state = cast(Any, exact.init(params))
    return state._replace(
      mu=optax.tree.cast(state.mu, jnp.bfloat16),
      nu=optax.tree.cast(state.nu, jnp.bfloat16),
    )

  def update(updates, state, params=None):
    state = cast(Any, state)._replace(
      mu=optax.tree.cast(state.mu, jnp.float32),
      nu=optax.tree.cast(state.nu, jnp.float32),
    )
    updates, state = cast(Any, exact.update(updates, state, params))
    key = jax.random.fold_in(jax.random.key(0), state.count)
    return updates, state._replace(
      mu=optax.tree.cast(state.mu, jnp.bfloat16), nu=_by_chance(state.nu, key)
    )

  return optax.GradientTransformation(init, update)


def _by_chance(tree: Any, key: jax.Array) -> Any:
  """Round to bfloat16, up as likely as far; the mean is exact."""
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(key, len(leaves))

  def round_leaf(x, key):
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits += jax.random.bits(key, x.shape, jnp.uint16)
    bits &= jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)

  return structure.unflatten(map(round_leaf, leaves, keys))
