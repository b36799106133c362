"""Nested classifier-free guidance by speech and by text.

  v = v(-, -) + s_a [v(-, a) - v(-, -)] + s_t [v(t, a) - v(-, a)]

with v(text, speech) and - for null: the empty prompt's encoding, zero speech.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mocha_jax.batch import Condition
from mocha_jax.diffusion.flow import Model


@dataclasses.dataclass(frozen=True)
class Guidance:
  """The scales s_a (speech) and s_t (text); 1 follows the model."""

  speech: float
  text: float


def nested(model: Model, null: Condition, scale: Guidance) -> Model:
  """Return the guided model; null has the shapes of the condition.

  The three velocities are computed as one batch of three times the size; where
  both scales are 1, the last is all there is to it, and is computed alone.
  """
  if scale.speech == scale.text == 1:
    return model

  def guided(x_t, t, condition: Condition):
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
