"""The backbone: a diffusion transformer over video latents (Movie Gen, MoCha).

Every layer adds the positions of its tokens, then

  x += gate * self_attention(modulate(norm(x)))
  x += text_attention(norm(x), text)
  x += speech_attention(norm(x), speech)
  x += gate * swiglu(modulate(norm(x)))

with shift, scale and gate from the flow time t: one projection shared by all
layers plus a table of each layer's own. The output is the velocity x1 - eps;
with `noise_skip` it is output + k(t) x_t, one k per latent channel, so that the
layers need not carry the noise: they hardly can where a token holds nearly as
many values as the model is wide.

Named scopes bear the names of the parts in `models.flops`, so that traces and
compiled programs can be read by part.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
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
from mocha_jax.models.embed import (
  TIME_FEATURES,
  FrozenText,
  Positions,
  TextEmbedding,
  TimeEmbedding,
)
from mocha_jax.models.layers import (
  Linear,
  ModulationTable,
  RMSNorm,
  SwiGLU,
  gated,
  modulate,
)
from mocha_jax.models.speech import SpeechProjector, make_speech_attention
from mocha_jax.sections import positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(BackboneConfig):
  """What `BackboneConfig` has, and

  max_rows, max_columns: of tokens that have positions, as max_frames.
  noise_skip: see the module.
  """

  max_rows: int
  max_columns: int
  noise_skip: bool
  # Runs from before there was a choice lack it.
  name: Literal["movie_gen"] = "movie_gen"

  def __post_init__(self):
    super().__post_init__()
    positive(self, "max_rows", "max_columns")

  @property
  def mlp_matrices(self) -> int:
    """Gate, up and down."""
    return 3

  @property
  def modulation_weights(self) -> int:
    """Numbers in the matrices that a clip's time goes through."""
    skip = self.channels * self.width if self.noise_skip else 0
    return TIME_FEATURES * self.width + (1 + 6 + 2) * self.width**2 + skip

  def frozen_text_weights(self, name: str) -> int:
    """Return the numbers in the matrix that brings features to D."""
    return self.frozen_text[name] * self.width


class Block(nnx.Module):
  """One layer."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    sizes = dict(
      D=config.width,
      N=config.heads,
      H=config.head,
      S=config.max_video_frames,
    )
    attention = functools.partial(
      Attention,
      sizes,
      implementation=config.attention_implementation,
      rngs=rngs,
    )
    self.modulation = ModulationTable(config.width)
    self.self_norm = RMSNorm(config.width)
    self.self_attention = attention(
      tokens=("T", "T"),
      names=(remat.QKV, remat.ATTENTION, remat.OUT),
      lora=config.lora.within("self_attention"),
    )
    self.text_norm = RMSNorm(config.width)
    self.text_attention = attention(
      tokens=("T", "L"),
      names=(remat.TEXT,) * 3,
      lora=config.lora.within("text_attention"),
    )
    self.speech_norm = RMSNorm(config.width)
    self.speech_attention = make_speech_attention(
      config.speech, config.geometry, sizes, rngs=rngs
    )
    self.mlp_norm = RMSNorm(config.width)
    self.mlp = SwiGLU(config.width, config.ffn, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    position: Float[Array, "T D"],
    shared: Float[Array, "B 2 3 D"],
    text: tuple[Float[Array, "B L D"], Bool[Array, "B L"]],
    speech: Float[Array, "B S D"],
    frames: int,
  ) -> Float[Array, "B T D"]:
    x = x + position
    attention, mlp = self.modulation(shared)
    with jax.named_scope("self_attention"):
      y = self.self_attention(
        modulate(self.self_norm(x), attention.shift, attention.scale)
      )
      x = x + gated(y, attention.gate)
    with jax.named_scope("text_attention"):
      x = x + self.text_attention(self.text_norm(x), *text)
    with jax.named_scope("speech_attention"):
      y = self.speech_attention(self.speech_norm(x), speech, frames)
      x = x + checkpoint_name(y, remat.SPEECH)
    with jax.named_scope("mlp"):
      y = self.mlp(modulate(self.mlp_norm(x), mlp.shift, mlp.scale))
      x = x + gated(checkpoint_name(y, remat.DOWN), mlp.gate)
    return sharding.constrain(x, "B T D")


class MovieGen(nnx.Module):
  """Predicts the velocity of noised latents; `model(x_t, t, condition)`."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.config = config
    width, patch = config.width, config.patch
    sizes = dict(D=width, C=patch**2 * config.channels)
    self.patches = Linear(sizes, "C D", rngs=rngs)
    limits = (config.max_frames, config.max_rows, config.max_columns)
    self.positions = Positions(limits, width, rngs=rngs)
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
    self.out_norm = RMSNorm(width)
    self.out_modulation = Linear(
      {"D": width, "2D": 2 * width}, "D 2D", rngs=rngs, scale=0.0
    )
    self.out = Linear(sizes, "D C", rngs=rngs, scale=0.0)
    self.skip = (
      Linear(dict(D=width, C=config.channels), "D C", rngs=rngs, scale=0.0)
      if config.noise_skip
      else None
    )

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
    """Return v, float32.

    Raises:
      ValueError: the grid is larger than the model's positions, or the speech
        is not of the video's length.
    """
    frames = check_clip(self.config, x_t, projected.speech.shape[1])
    dtype = jnp.dtype(self.config.dtype)
    with jax.named_scope("patches"):
      x = self.patches(to_tokens(x_t, self.config.patch).astype(dtype))
      x = sharding.constrain(x, "B T D")
    rows, columns = (n // self.config.patch for n in x_t.shape[2:4])
    position = sharding.constrain(
      self.positions(frames, rows, columns).astype(dtype), "T D"
    )
    with jax.named_scope("modulation"):
      time = jax.nn.silu(self.time(t))
      shared = sharding.constrain(self.modulation(time), "B D")
      shared = shared.reshape(-1, 2, 3, self.config.width)
    text = (projected.text, projected.text_mask)
    given = (position, shared, text, projected.speech, frames)
    x = run_layers(self.blocks, self.config.remat, x, *given)
    with jax.named_scope("modulation"):
      shift, scale = jnp.split(self.out_modulation(time)[:, None], 2, axis=-1)
    with jax.named_scope("patches"):
      x = modulate(self.out_norm(x), shift, scale)
      out = self.out(x.astype(jnp.float32))
      out = to_grid(out, x_t.shape, self.config.patch)
    if self.skip is None:
      return out
    return out + self.skip(time)[:, None, None, None] * x_t
