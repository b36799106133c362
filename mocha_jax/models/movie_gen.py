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
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mocha_jax import sharding
from mocha_jax.batch import Condition
from mocha_jax.kernels.speech_window.geometry import Geometry
from mocha_jax.models import remat
from mocha_jax.models.attention import Attention, Implementation
from mocha_jax.models.embed import (
  Positions,
  TextEmbedding,
  TimeEmbedding,
  TrainedTextConfig,
)
from mocha_jax.models.layers import (
  Linear,
  ModulationTable,
  RMSNorm,
  SwiGLU,
  gated,
  modulate,
)
from mocha_jax.models.speech import (
  GlobalSpeechAttention,
  SpeechConfig,
  SpeechProjector,
  SpeechWindowAttention,
)
from mocha_jax.sections import positive


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes of the network.

  layers, width (D), ffn (F), heads (N), head (H): of the transformer.
  channels: of a latent; patch: height and width in latents of a token.
  ratio, causal: the codec's video frames per latent frame, and its grid.
  max_frames, max_rows, max_columns: tokens that have positions.
  speech, frozen_text (feature width by encoder), small_text: conditions.
  noise_skip: see the module.
  dtype: of the computation; parameters are float32.
  attention: its implementation, "auto" to choose by platform (`attention`).
  remat: what a layer keeps for the backward pass (`remat`).
  """

  layers: int
  width: int
  ffn: int
  heads: int
  head: int
  channels: int
  patch: int
  ratio: int
  causal: bool
  max_frames: int
  max_rows: int
  max_columns: int
  speech: SpeechConfig
  frozen_text: Mapping[str, int]
  small_text: TrainedTextConfig | None
  noise_skip: bool
  dtype: Literal["float32", "bfloat16"]
  attention: Literal["auto", "xla", "splash", "cudnn"]
  remat: str

  def __post_init__(self):
    positive(self, "layers", "width", "ffn", "heads", "head", "channels")
    positive(self, "patch", "max_frames", "max_rows", "max_columns")
    values = self.patch**2 * self.channels
    if values >= self.width:
      raise ValueError(
        f"a token holds patch^2 x channels = {values} values, which must be "
        f"fewer than width={self.width}: the prediction carries the noise too"
      )
    if self.head % 2:
      raise ValueError(f"head={self.head}: must be even, RoPE turns pairs")
    if not self.frozen_text and self.small_text is None:
      raise ValueError("one of frozen_text and small_text must be given")
    remat.check(self.remat)

  @property
  def geometry(self) -> Geometry:
    """Which speech each latent frame attends to."""
    return Geometry(
      ratio=self.ratio,
      causal=self.causal,
      edge=self.speech.edge,
      order=self.speech.order,
    )

  @property
  def attention_implementation(self) -> Implementation | None:
    """The implementation of attention, None to choose by platform."""
    return None if self.attention == "auto" else self.attention

  @property
  def max_video_frames(self) -> int:
    """Video frames of the longest clip that the position tables allow."""
    return self.ratio * (self.max_frames - self.causal) + self.causal


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
    speech = (
      SpeechWindowAttention
      if config.speech.attention == "window"
      else GlobalSpeechAttention
    )
    self.modulation = ModulationTable(config.width)
    self.self_norm = RMSNorm(config.width)
    self.self_attention = attention(
      tokens=("T", "T"), names=(remat.QKV, remat.ATTENTION, remat.OUT)
    )
    self.text_norm = RMSNorm(config.width)
    self.text_attention = attention(tokens=("T", "L"), names=(remat.TEXT,) * 3)
    self.speech_norm = RMSNorm(config.width)
    self.speech_attention = speech(
      config.speech, config.geometry, sizes, rngs=rngs
    )
    self.mlp_norm = RMSNorm(config.width)
    self.mlp = SwiGLU(config.width, config.ffn, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    shared: Float[Array, "B 2 3 D"],
    text: tuple[Float[Array, "B L D"], Bool[Array, "B L"]],
    speech: Float[Array, "B S D"],
    frames: int,
  ) -> Float[Array, "B T D"]:
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
    self.text = TextEmbedding(
      config.frozen_text, config.small_text, width, config.heads, rngs=rngs
    )
    self.speech = SpeechProjector(config.speech, width, rngs=rngs)

    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap(in_axes=(0,))
    def blocks(rngs):
      return Block(config, rngs=rngs)

    self.blocks = blocks(rngs)
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
    """Return v, float32.

    Raises:
      ValueError: the grid is larger than the model's positions, or the speech
        is not of the video's length.
    """
    frames = self._check(x_t, condition)
    dtype = jnp.dtype(self.config.dtype)
    with jax.named_scope("patches"):
      x = self.patches(self._to_tokens(x_t).astype(dtype))
      x = sharding.constrain(x, "B T D")
    rows, columns = (n // self.config.patch for n in x_t.shape[2:4])
    position = sharding.constrain(
      self.positions(frames, rows, columns).astype(dtype), "T D"
    )
    with jax.named_scope("modulation"):
      time = jax.nn.silu(self.time(t))
      shared = sharding.constrain(self.modulation(time), "B D")
      shared = shared.reshape(-1, 2, 3, self.config.width)
    with jax.named_scope("text_projection"):
      text, mask = self.text(condition)
      text = sharding.constrain(text.astype(dtype), "B L D")
    with jax.named_scope("speech_projection"):
      speech = self.speech(condition.speech.astype(dtype))
      speech = sharding.constrain(speech, "B S D")
    x = self._run_blocks(x, position, shared, (text, mask), speech)
    with jax.named_scope("modulation"):
      shift, scale = jnp.split(self.out_modulation(time)[:, None], 2, axis=-1)
    with jax.named_scope("patches"):
      x = modulate(self.out_norm(x), shift, scale)
      out = self._to_grid(self.out(x.astype(jnp.float32)), x_t.shape)
    if self.skip is None:
      return out
    return out + self.skip(time)[:, None, None, None] * x_t

  def _check(self, x_t, condition: Condition) -> int:
    frames, height, width = x_t.shape[1:4]
    if height % self.config.patch or width % self.config.patch:
      raise ValueError(
        f"{height} x {width} latents: must be multiples of "
        f"patch={self.config.patch}"
      )
    expected = self.config.geometry.frames(condition.speech.shape[1])
    if frames != expected:
      raise ValueError(
        f"{frames} latent frames, but speech of {condition.speech.shape[1]} "
        f"video frames goes with {expected}"
      )
    return frames

  def _run_blocks(self, x, position, shared, text, speech):
    """Scan over the stacked layers, rematerialising as configured."""
    graph, layers = nnx.split(self.blocks)
    frames = self.config.geometry.frames(speech.shape[1])

    def layer(x, state):
      block = nnx.merge(graph, state)
      return block(x + position, shared, text, speech, frames), None

    layer = remat.rematerialised(layer, self.config.remat)
    return jax.lax.scan(layer, x, layers)[0]

  def _to_tokens(self, x):
    b, f, h, w, c = x.shape
    p = self.config.patch
    x = x.reshape(b, f, h // p, p, w // p, p, c).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(b, f * (h // p) * (w // p), p * p * c)

  def _to_grid(self, x, shape):
    b, f, h, w, c = shape
    p = self.config.patch
    x = x.reshape(b, f, h // p, w // p, p, p, c).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(shape)
