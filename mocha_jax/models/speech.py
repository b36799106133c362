"""How speech enters: one projected token per video frame, then attention.

Window attention is the paper's; global attention with its positional
encodings stands beside it for the ablations (MoCha, table 5).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mocha_jax import sharding
from mocha_jax.kernels.speech_window import api, ref
from mocha_jax.kernels.speech_window.geometry import Edge, Geometry, Order
from mocha_jax.models import remat
from mocha_jax.models.attention import attend, from_heads, to_heads
from mocha_jax.models.layers import HeadNorm, Linear, table, weight
from mocha_jax.sections import positive

Position = Literal["none", "rope", "sinusoidal", "learned"]


@dataclasses.dataclass(frozen=True)
class SpeechConfig:
  """How the model hears.

  features: width E of the speech encoder's vectors, one per video frame.
  context: neighbours glued to a vector on either side.
  hidden: width of the projector between its two layers.
  attention: "window" or, for ablations, "global".
  order, edge: of the tokens in a window, see `Geometry`.
  position: of the tokens in global attention.
  implementation: of window attention, "auto" for the kernel on TPUs and XLA
    elsewhere.
  """

  features: int
  context: int
  hidden: int
  attention: Literal["window", "global"]
  order: Order
  edge: Edge
  position: Position
  # Runs from before there was a choice lack it.
  implementation: Literal["auto", "xla", "pallas_tpu"] = "auto"

  def __post_init__(self):
    positive(self, "features", "hidden")
    if self.context < 0:
      raise ValueError(f"context={self.context} must not be negative")


class SpeechProjector(nnx.Module):
  """Glues each vector to its neighbours and brings it to D by a 2-layer MLP."""

  def __init__(self, config: SpeechConfig, width: int, *, rngs: nnx.Rngs):
    self.context = config.context
    glued = (2 * config.context + 1) * config.features
    sizes = dict(E=glued, P=config.hidden, D=width)
    self.first = Linear(sizes, "E P", rngs=rngs)
    self.second = Linear(sizes, "P D", rngs=rngs)

  def __call__(self, speech: Float[Array, "B S E"]) -> Float[Array, "B S D"]:
    tokens = speech.shape[1]
    offset = jnp.arange(-self.context, self.context + 1)
    index = jnp.clip(jnp.arange(tokens)[:, None] + offset, 0, tokens - 1)
    glued = speech[:, index].reshape(*speech.shape[:2], -1)
    return self.second(jax.nn.silu(self.first(glued)))


class SpeechWindowAttention(nnx.Module):
  """Attends each latent frame to the speech of its own time."""

  def __init__(
    self,
    config: SpeechConfig,
    geometry: Geometry,
    sizes: dict[str, int],
    *,
    rngs: nnx.Rngs,
  ):
    self.geometry = geometry
    self.implementation: api.Implementation | None = (
      None if config.implementation == "auto" else config.implementation
    )
    self.query = weight(rngs, "D N H", sizes)
    self.key = weight(rngs, "D N H", sizes)
    self.value = weight(rngs, "D N H", sizes)
    # Zero, so that a pretrained backbone is unchanged at step 0.
    self.out = weight(rngs, "N H D", sizes, scale=0.0)
    self.key_norm = HeadNorm(sizes["H"])
    slots = jnp.zeros((geometry.width, sizes["D"]))
    self.slots = (
      nnx.Param(slots, letters="R D") if config.order == "slots" else None
    )

  def __call__(
    self,
    x: Float[Array, "B T D"],
    speech: Float[Array, "B S D"],
    frames: int,
  ) -> Float[Array, "B T D"]:
    weights = api.Weights(
      query=self.query[...],
      key=self.key[...],
      value=self.value[...],
      out=self.out[...],
      key_norm=self.key_norm.scale[...],
      slots=None if self.slots is None else self.slots[...],
    )
    folded = api.fold_speech(speech, weights, self.geometry, frames)
    by_frame = x.reshape(x.shape[0], frames, -1, x.shape[-1])
    out = api.windowed_attention(
      by_frame, folded, implementation=self.implementation
    )
    return out.reshape(x.shape)


def sinusoids(tokens: int, width: int) -> Float[Array, "S D"]:
  """Return the sinusoidal positions of "Attention Is All You Need"."""
  frequency = 10_000.0 ** (-jnp.arange(width // 2) / (width // 2))
  angle = jnp.arange(tokens)[:, None] * frequency
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class GlobalSpeechAttention(nnx.Module):
  """Attends each video token to all speech tokens, for the ablations."""

  def __init__(
    self,
    config: SpeechConfig,
    geometry: Geometry,
    sizes: dict[str, int],
    *,
    rngs: nnx.Rngs,
  ):
    self.geometry = geometry
    self.position = config.position
    self.query = weight(rngs, "D N H", sizes)
    self.key = weight(rngs, "D N H", sizes)
    self.value = weight(rngs, "D N H", sizes)
    self.out = weight(rngs, "N H D", sizes, scale=0.0)
    self.key_norm = HeadNorm(sizes["H"])
    self.learned = (
      table(rngs, "S D", sizes, scale=0.02)
      if config.position == "learned"
      else None
    )

  def __call__(
    self,
    x: Float[Array, "B T D"],
    speech: Float[Array, "B S D"],
    frames: int,
  ) -> Float[Array, "B T D"]:
    tokens = speech.shape[1]
    if self.position == "sinusoidal":
      speech = speech + sinusoids(tokens, x.shape[-1]).astype(x.dtype)
    elif self.learned is not None:
      speech = speech + self.learned[:tokens].astype(x.dtype)
    query = to_heads(x, self.query[...])
    key = self.key_norm(to_heads(speech, self.key[...]))
    value = to_heads(speech, self.value[...])
    if self.position == "rope":
      query, key = self._rotate(query, key, frames)
    query = sharding.constrain(query, "B T N H")
    key, value = (sharding.constrain(y, "B S N H") for y in (key, value))
    out = attend(
      *(query, key, value),
      implementation="xla",  # A kernel has little to gain on so few tokens.
      tokens=("T", "S"),
      name=remat.SPEECH,
    )
    return from_heads(out, self.out[...])

  def _rotate(self, query, key, frames: int):
    """Rotate by time in video frames, that of x the middle of its latent."""
    half = query.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half) / half)
    ratio, causal = self.geometry.ratio, self.geometry.causal
    middle = ratio * jnp.arange(frames) + (ratio - 1) / 2
    if causal:
      middle = jnp.maximum(middle - (ratio - 1), 0.0)
    at_query = jnp.repeat(middle, query.shape[1] // frames)
    turn = lambda y, at: ref.rotate(
      y.astype(jnp.float32), at[:, None] * frequency
    ).astype(y.dtype)
    return turn(query, at_query), turn(key, jnp.arange(key.shape[1]))


def make_speech_attention(
  config: SpeechConfig,
  geometry: Geometry,
  sizes: dict[str, int],
  *,
  rngs: nnx.Rngs,
) -> SpeechWindowAttention | GlobalSpeechAttention:
  """Make the attention that `config.attention` names."""
  kind = (
    SpeechWindowAttention
    if config.attention == "window"
    else GlobalSpeechAttention
  )
  return kind(config, geometry, sizes, rngs=rngs)
