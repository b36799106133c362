"""The backbone of Wan2.1 (arXiv 2503.20314), text to video, that also hears.

Every layer

  x += gate * self_attention(modulate(norm(x)))       RoPE in frame, row, column
  x += text_attention(norm(x), text)
  x += speech_attention(norm(x), speech)              ours, zero at the start
  x += gate * mlp(modulate(norm(x)))                  gelu

Wan predicts eps - x1 and is told the level of noise 1 - t, in thousandths; both
are turned at the border, so that this model is called as all others are and
returns x1 - eps. It attends to the padding of its text too, 512 tokens of which
those after the prompt have features of zero.

Heads keep the pairs that RoPE turns as (i, i + H/2), not (2 i, 2 i + 1) as in
Wan's files: the scores are the same, and TPUs need not move single numbers.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mocha_jax import sharding
from mocha_jax.batch import Condition
from mocha_jax.models import remat
from mocha_jax.models.attention import Attention
from mocha_jax.models.backbone import (
  BackboneConfig,
  Projected,
  check_clip,
  project,
  run_layers,
  stack,
  to_grid,
  to_tokens,
)
from mocha_jax.models.embed import TIME_FEATURES, TextEmbedding, TimeEmbedding
from mocha_jax.models.layers import (
  LayerNorm,
  Linear,
  Modulation,
  ModulationTable,
  RMSNorm,
  standardized,
  table,
)
from mocha_jax.models.speech import SpeechProjector, make_speech_attention

THETA = 10_000.0

Turn = tuple[Float[Array, "T P"], Float[Array, "T P"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WanConfig(BackboneConfig):
  """What `BackboneConfig` has; text is frozen or, for trials, trained."""

  name: Literal["wan"]

  def __post_init__(self):
    super().__post_init__()
    if self.frozen_text and self.small_text is not None:
      raise ValueError("frozen_text and small_text: only one may be given")

  @property
  def mlp_matrices(self) -> int:
    """Up and down."""
    return 2

  @property
  def modulation_weights(self) -> int:
    """Numbers in the matrices that a clip's time goes through."""
    return TIME_FEATURES * self.width + (1 + 6) * self.width**2

  def frozen_text_weights(self, name: str) -> int:
    """Return the numbers in the matrices that bring features to D."""
    return (self.frozen_text[name] + self.width) * self.width


def rotation(grid: tuple[int, int, int], head: int) -> Turn:
  """Return cosine and sine of the angle of every pair of a head, [T H/2].

  Of H/2 pairs a third each, rounded down, turn with row and column, the others,
  first in a head, with the frame: pair j of n by place / 10,000^(j / n).
  """
  around = head // 6
  angles = [
    np.arange(places)[:, None] / THETA ** (np.arange(pairs) / pairs)
    for places, pairs in zip(
      grid, (head // 2 - 2 * around, around, around), strict=True
    )
  ]

  def of_tokens(function) -> Float[Array, "T P"]:
    parts = []
    for axis, angle in enumerate(angles):
      shape = [1, 1, 1, angle.shape[1]]
      shape[axis] = angle.shape[0]
      part = jnp.asarray(function(angle), jnp.float32).reshape(shape)
      parts.append(jnp.broadcast_to(part, (*grid, angle.shape[1])))
    joined = jnp.concatenate(parts, axis=-1).reshape(-1, head // 2)
    return sharding.constrain(joined, "T P")

  return of_tokens(np.cos), of_tokens(np.sin)


def rotate(x: Float[Array, "B T N H"], turn: Turn) -> Float[Array, "B T N H"]:
  """Turn the pairs (x[i], x[i + H/2]) of every token."""
  cos, sin = (part[:, None] for part in turn)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = (first * cos - second * sin, first * sin + second * cos)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class MLP(nnx.Module):
  """gelu(x W + b) W' + b', the gelu by tanh."""

  def __init__(self, sizes: dict[str, int], letters: str, *, rngs: nnx.Rngs):
    inputs, hidden, outputs = letters.split()
    self.up = Linear(sizes, f"{inputs} {hidden}", rngs=rngs)
    self.down = Linear(sizes, f"{hidden} {outputs}", rngs=rngs)

  def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    y = checkpoint_name(self.up(x), remat.UP)
    return self.down(jax.nn.gelu(y, approximate=True))


class FrozenText(nnx.Module):
  """Brings a frozen encoder's features to D; those of padding are zero."""

  def __init__(self, features: int, width: int, *, rngs: nnx.Rngs):
    self.mlp = MLP(dict(E=features, D=width, O=width), "E O D", rngs=rngs)

  def __call__(
    self, features: Float[Array, "B L E"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    return self.mlp(jnp.where(mask[:, :, None], features, 0))


class Block(nnx.Module):
  """One layer."""

  def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
    sizes = dict(
      D=config.width,
      F=config.ffn,
      N=config.heads,
      H=config.head,
      S=config.max_video_frames,
    )
    attention = functools.partial(
      Attention,
      sizes,
      implementation=config.attention_implementation,
      biased=True,
      wide_norm=True,
      rngs=rngs,
    )
    self.modulation = ModulationTable(config.width)
    self.self_attention = attention(
      tokens=("T", "T"),
      names=(remat.QKV, remat.ATTENTION, remat.OUT),
      lora=config.lora.within("self_attention"),
    )
    self.text_norm = LayerNorm(config.width)
    self.text_attention = attention(
      tokens=("T", "L"),
      names=(remat.TEXT,) * 3,
      lora=config.lora.within("text_attention"),
    )
    self.speech_norm = RMSNorm(config.width)
    self.speech_attention = make_speech_attention(
      config.speech, config.geometry, sizes, rngs=rngs
    )
    self.mlp = MLP(sizes, "D F D", rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    shared: Float[Array, "B 2 3 D"],
    text: tuple[Float[Array, "B L D"], Bool[Array, "B L"] | None],
    speech: Float[Array, "B S D"],
    frames: int,
    turn: Turn,
  ) -> Float[Array, "B T D"]:
    attention, mlp = self.modulation(shared)
    with jax.named_scope("self_attention"):
      y = self.self_attention(
        _modulated(x, attention), turn=functools.partial(rotate, turn=turn)
      )
      x = _added(x, y, attention)
    with jax.named_scope("text_attention"):
      x = x + self.text_attention(self.text_norm(x), *text)
    with jax.named_scope("speech_attention"):
      y = self.speech_attention(self.speech_norm(x), speech, frames)
      x = x + checkpoint_name(y, remat.SPEECH)
    with jax.named_scope("mlp"):
      y = checkpoint_name(self.mlp(_modulated(x, mlp)), remat.DOWN)
      x = _added(x, y, mlp)
    return sharding.constrain(x, "B T D")


def _modulated(
  x: Float[Array, "B T D"], by: Modulation
) -> Float[Array, "B T D"]:
  """Return norm(x) * (1 + scale) + shift, rounded once."""
  return (standardized(x) * (1 + by.scale) + by.shift).astype(x.dtype)


def _added(
  x: Float[Array, "B T D"], y: Float[Array, "B T D"], by: Modulation
) -> Float[Array, "B T D"]:
  """Return x + y * gate, rounded once."""
  return (x.astype(jnp.float32) + y * by.gate).astype(x.dtype)


class Wan(nnx.Module):
  """Predicts the velocity of noised latents; `model(x_t, t, condition)`."""

  def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
    self.config = config
    width, patch = config.width, config.patch
    sizes = dict(D=width, C=patch**2 * config.channels)
    self.patches = Linear(sizes, "C D", rngs=rngs)
    self.time = TimeEmbedding(width, rngs=rngs)
    self.modulation = Linear(
      {"D": width, "6D": 6 * width}, "D 6D", rngs=rngs, scale=0.0
    )
    frozen = {
      name: FrozenText(features, width, rngs=rngs)
      for name, features in config.frozen_text.items()
    }
    self.text = TextEmbedding(
      frozen, config.small_text, width, config.heads, rngs=rngs
    )
    self.speech = SpeechProjector(config.speech, width, rngs=rngs)
    self.blocks = stack(Block, config, rngs=rngs)
    self.out_modulation = table(
      rngs, "_ D", {"_": 2, "D": width}, scale=width**-0.5
    )
    self.out = Linear(sizes, "D C", rngs=rngs, scale=0.0)

  def __call__(
    self,
    x_t: Float[Array, "B f h w c"],
    t: Float[Array, "B"],
    condition: Condition,
  ) -> Float[Array, "B f h w c"]:
    return self.velocity(x_t, t, project(self, condition))

  def velocity(
    self,
    x_t: Float[Array, "B f h w c"],
    t: Float[Array, "B"],
    projected: Projected,
  ) -> Float[Array, "B f h w c"]:
    """Return v = x1 - eps, float32.

    Raises:
      ValueError: the latents do not divide into patches, or the speech is not
        of the video's length.
    """
    config = self.config
    frames = check_clip(config, x_t, projected.speech.shape[1])
    dtype = jnp.dtype(config.dtype)
    with jax.named_scope("patches"):
      x = self.patches(to_tokens(x_t, config.patch).astype(dtype))
      x = sharding.constrain(x, "B T D")
    rows, columns = (n // config.patch for n in x_t.shape[2:4])
    turn = rotation((frames, rows, columns), config.head)
    with jax.named_scope("modulation"):
      time = self.time(1 - t)
      shared = self.modulation(jax.nn.silu(time))
      shared = sharding.constrain(shared, "B D")
      shared = shared.reshape(-1, 2, 3, config.width)
    mask = None if config.small_text is None else projected.text_mask
    text = (projected.text, mask)
    given = (shared, text, projected.speech, frames, turn)
    x = run_layers(self.blocks, config.remat, x, *given)
    with jax.named_scope("patches"):
      shift, scale = jnp.split(self.out_modulation[...] + time[:, None], 2, 1)
      x = standardized(x) * (1 + scale) + shift
      return -to_grid(self.out(x), x_t.shape, config.patch)
