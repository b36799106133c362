"""Nested classifier-free guidance by speech and by text.

  v = v(-, -) + s_a [v(-, a) - v(-, -)] + s_t [v(t, a) - v(-, a)]

with v(text, speech) and - for null: the empty prompt's encoding, zero speech.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mocha_jax.diffusion.flow import Model


@dataclasses.dataclass(frozen=True)
class Guidance:
  """The scales s_a (speech) and s_t (text); 1 follows the model."""

  speech: float | Float[Array, ""]
  text: float | Float[Array, ""]


def nested(model: Model, null: Any, scale: Guidance) -> Model:
  """Return the guided model; null has the shapes of the condition.

  Both are `Condition`s, or what else the model takes that has a field `speech`.

  The three velocities are computed as one batch of three times the size; where
  both scales are 1, the last is all there is to it, and is computed alone.
  """
  if all(
    isinstance(s, int | float) and s == 1 for s in (scale.speech, scale.text)
  ):
    return model

  def guided(x_t, t, condition: Any):
    heard = dataclasses.replace(null, speech=condition.speech)
    conditions = jax.tree.map(
      lambda *parts: jnp.concatenate(parts), null, heard, condition
    )
    velocity = model(
      jnp.concatenate([x_t] * 3), jnp.concatenate([t] * 3), conditions
    )
    nothing, speech, both = jnp.split(velocity, 3)
    return (
      nothing + scale.speech * (speech - nothing) + scale.text * (both - speech)
    )

  return guided
