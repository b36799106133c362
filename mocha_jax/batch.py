"""What one training step is given: latents and what conditions them."""

import dataclasses
import typing
from collections.abc import Mapping

import jax
from jaxtyping import Array, Bool, Float, Int


@typing.no_type_check  # A tree map may put anything in the fields.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Condition:
  """What the video is conditioned on; a model's third argument.

  speech holds one vector per video frame, all zero where there is no speech.
  text and text_mask are keyed by encoder: token ids for an encoder that the
  model trains itself, features for a frozen one; the mask is True on tokens.
  """

  speech: Float[Array, "B S E"]
  text: Mapping[str, Int[Array, "B L"] | Float[Array, "B L E"]]
  text_mask: Mapping[str, Bool[Array, "B L"]]


@typing.no_type_check  # A tree map may put anything in the fields.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """A batch of encoded clips."""

  latents: Float[Array, "B f h w c"]
  condition: Condition
