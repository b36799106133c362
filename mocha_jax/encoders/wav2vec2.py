"""wav2vec 2.0 (arXiv 2006.11477), base: a vector per video frame from a sound.

Seven convolutions turn 16 kHz sound, of mean 0 and variance 1, into 50 vectors
a second (400 samples each, 320 apart), a transformer mixes them, and what its
layers return, one beside the other, is the encoding. In between lies linear
interpolation to one vector per video frame, the first vector at the first
frame and the last at the last:

  before   between convolutions and transformer (MoCha's paper)
  after    of the layers' outputs (congwei1230/MoCha-Demo's embed_audio.py)
"""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from mocha_jax.encoders import sound
from mocha_jax.encoders.frozen import Frozen
from mocha_jax.encoders.interpolate import interpolate
from mocha_jax.encoders.layers import ACTIVATIONS, MLP, SelfAttention
from mocha_jax.models.layers import LayerNorm, Linear, weight
from mocha_jax.sections import positive

_EPSILON = 1e-5
_SILENCE = 1e-7  # Added to a sound's variance.
_gelu = ACTIVATIONS["gelu"]


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Sizes:
  """Sizes of the network.

  layers, width (D), ffn (F), heads (N): of the transformer.
  channels: of the convolutions; kernels, strides: one each per convolution.
  position_kernel, position_groups: of the convolution that tells positions.
  """

  layers: int
  width: int
  ffn: int
  heads: int
  channels: int
  kernels: tuple[int, ...]
  strides: tuple[int, ...]
  position_kernel: int
  position_groups: int

  def __post_init__(self):
    positive(self, "layers", "width", "ffn", "heads", "channels")
    positive(self, "position_kernel", "position_groups")
    if len(self.kernels) != len(self.strides) or not self.kernels:
      raise ValueError(
        f"kernels={self.kernels} and strides={self.strides} must have one"
        " number each per convolution"
      )
    for name in ("heads", "position_groups"):
      if self.width % getattr(self, name):
        raise ValueError(
          f"width={self.width} must be a multiple of"
          f" {name}={getattr(self, name)}"
        )

  @property
  def shortest(self) -> int:
    """Samples that give one vector."""
    samples = 1
    for kernel, stride in zip(
      reversed(self.kernels), reversed(self.strides), strict=True
    ):
      samples = (samples - 1) * stride + kernel
    return samples


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
  """Section `speech_encoder`.

  interpolate: where (see the module). weights: path of the weights, as
  `weights.files.open_tensors` takes it. dtype: of weights and computation.
  batch_size: clips that are encoded at once.
  """

  name: Literal["wav2vec2"]
  sizes: Wav2Vec2Sizes
  interpolate: Literal["before", "after"]
  weights: str
  dtype: Literal["float32", "bfloat16"]
  batch_size: int

  def __post_init__(self):
    positive(self, "batch_size")


class Convolution(nnx.Module):
  """gelu(norm(x * kernel)); each channel is normed over time, or not at all."""

  def __init__(
    self,
    sizes: dict[str, int],
    stride: int,
    *,
    normed: bool,
    rngs: nnx.Rngs,
  ):
    self.stride = stride
    self.kernel = weight(rngs, "K C D", sizes)
    self.norm = TimeNorm(sizes["D"]) if normed else None

  def __call__(self, x: Float[Array, "B s C"]) -> Float[Array, "B S D"]:
    """Return one vector for every stride that the kernel fits into."""
    y = _convolve(x, self.kernel[...], stride=self.stride)
    return _gelu(y if self.norm is None else self.norm(y))


class TimeNorm(nnx.Module):
  """(x - mean) / std * scale + bias, of each channel over time, in fp32."""

  def __init__(self, width: int):
    self.scale = nnx.Param(jnp.ones(width), letters="D")
    self.bias = nnx.Param(jnp.zeros(width), letters="D")

  def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """Return x, normed."""
    y = x.astype(jnp.float32)
    y -= jnp.mean(y, axis=1, keepdims=True)
    y *= jax.lax.rsqrt(jnp.mean(y**2, axis=1, keepdims=True) + _EPSILON)
    return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class PositionConvolution(nnx.Module):
  """gelu(x * kernel), kernel[k] = magnitude[k] direction[k] / |direction[k]|.

  As long as x; channels are mixed within groups.
  """

  def __init__(self, sizes: dict[str, int], groups: int, *, rngs: nnx.Rngs):
    self.groups = groups
    self.magnitude = nnx.Param(jnp.ones(sizes["K"]), letters="K")
    self.direction = weight(rngs, "K C D", sizes)
    self.bias = nnx.Param(jnp.zeros(sizes["D"]), letters="D")

  def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """Return what is to be added to x."""
    direction = self.direction[...].astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(direction**2, axis=(1, 2), keepdims=True))
    kernel = self.magnitude[...][:, None, None] * (direction / length)
    size = len(kernel)
    padding = (size // 2, size - 1 - size // 2)
    y = _convolve(x, kernel, groups=self.groups, padding=padding)
    return _gelu(y + self.bias[...].astype(x.dtype))


def _convolve(
  x: Float[Array, "B s C"],
  kernel: Float[Array, "K c D"],
  *,
  stride: int = 1,
  groups: int = 1,
  padding: tuple[int, int] = (0, 0),
) -> Float[Array, "B S D"]:
  return jax.lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (stride,),
    (padding,),
    dimension_numbers=("NWC", "WIO", "NWC"),
    feature_group_count=groups,
  )


class Block(nnx.Module):
  """One layer: attention, then an MLP, each followed by a norm."""

  def __init__(self, config: Wav2Vec2Sizes, *, rngs: nnx.Rngs):
    head = config.width // config.heads
    sizes = dict(D=config.width, F=config.ffn, N=config.heads, H=head)
    self.attention = SelfAttention(
      sizes, scale=head**-0.5, biased=True, rngs=rngs
    )
    self.attention_norm = LayerNorm(config.width, _EPSILON)
    self.mlp = MLP(sizes, activation="gelu", rngs=rngs)
    self.mlp_norm = LayerNorm(config.width, _EPSILON)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Return the layer's output."""
    x = self.attention_norm(x + self.attention(x))
    return self.mlp_norm(x + self.mlp(x))


class Wav2Vec2(nnx.Module):
  """Turns normed sound into a vector per video frame."""

  def __init__(self, config: Wav2Vec2Sizes, *, rngs: nnx.Rngs):
    self.config = config
    inputs = (1, *[config.channels] * (len(config.kernels) - 1))
    self.convolutions = nnx.List(
      [
        Convolution(
          dict(K=kernel, C=inputs[i], D=config.channels),
          stride,
          normed=i == 0,
          rngs=rngs,
        )
        for i, (kernel, stride) in enumerate(
          zip(config.kernels, config.strides, strict=True)
        )
      ]
    )
    self.feature_norm = LayerNorm(config.channels, _EPSILON)
    self.projection = Linear(
      dict(C=config.channels, D=config.width), "C D", rngs=rngs
    )
    groups = config.position_groups
    self.positions = PositionConvolution(
      dict(K=config.position_kernel, C=config.width // groups, D=config.width),
      groups,
      rngs=rngs,
    )
    self.norm = LayerNorm(config.width, _EPSILON)

    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap(in_axes=(0,))
    def blocks(rngs):
      return Block(config, rngs=rngs)

    self.blocks = blocks(rngs)

  def __call__(
    self,
    samples: Float[Array, "B A"],
    frames: int,
    where: Literal["before", "after"],
  ) -> Float[Array, "B frames E"]:
    """Return all layers' outputs, side by side, for every video frame."""
    x = self.features(samples)
    if where == "before":
      return self.transform(interpolate(x, frames))
    return interpolate(self.transform(x), frames)

  def features(self, samples: Float[Array, "B A"]) -> Float[Array, "B S C"]:
    """Return what the convolutions make of a sound."""
    x = samples[..., None].astype(self.projection.kernel.dtype)
    for convolution in self.convolutions:
      x = convolution(x)
    return x

  def transform(self, x: Float[Array, "B S C"]) -> Float[Array, "B S E"]:
    """Return what the transformer's layers make of that, side by side."""
    x = self.projection(self.feature_norm(x))
    x = self.norm(x + self.positions(x))
    graph, layers = nnx.split(self.blocks)

    def layer(x, state):
      x = nnx.merge(graph, state)(x)
      return x, x

    _, outputs = jax.lax.scan(layer, x, layers)
    return jnp.moveaxis(outputs, 0, 2).reshape(*x.shape[:2], -1)


class Wav2Vec2Speech(Frozen):
  """Turns waveforms into one vector per video frame."""

  config: Wav2Vec2Config

  @property
  def width(self) -> int:
    """Numbers per video frame."""
    return self.config.sizes.layers * self.config.sizes.width

  def build(self, rngs: nnx.Rngs) -> Wav2Vec2:
    """Make the module."""
    return Wav2Vec2(self.config.sizes, rngs=rngs)

  def table(self, names: Collection[str]):
    """Return the table of names for a file that holds these."""
    from mocha_jax.weights import wav2vec2

    return wav2vec2.table(names, len(self.config.sizes.kernels))

  def settings(self):
    """Return what it computes by and no tensor's shape tells."""
    from mocha_jax.weights import wav2vec2

    sizes = self.config.sizes
    return wav2vec2.settings(
      heads=sizes.heads, strides=sizes.strides, epsilon=_EPSILON
    )

  def __call__(
    self,
    samples: Float[np.ndarray, "A"],
    *,
    sample_rate: int,
    fps: float,
    frames: int,
  ) -> Float32[np.ndarray, "frames E"]:
    """Encode the first `frames` / `fps` seconds of a mono waveform.

    Shorter sound is padded with silence, longer is cut. ValueError if the
    waveform is not mono, or the frames last too short.
    """
    return self.many(
      [samples], sample_rate=sample_rate, fps=fps, frames=frames
    )[0]

  def many(
    self,
    waveforms: Sequence[Float[np.ndarray, "A"]],
    *,
    sample_rate: int,
    fps: float,
    frames: int,
  ) -> Float32[np.ndarray, "B frames E"]:
    """Encode several, each as if it stood alone."""
    length = round(frames / fps * sound.RATE)
    if length < self.config.sizes.shortest:
      raise ValueError(
        f"{frames} frames at {fps:g} fps last {length} samples, but wav2vec2"
        f" hears {self.config.sizes.shortest} at once: take more frames"
      )
    inputs = [prepared(samples, sample_rate, length) for samples in waveforms]
    encode = lambda params, samples: self._encode(params, samples, frames)
    return self.in_batches(encode, np.stack(inputs))

  def features(
    self, params: Any, samples: Float[Array, "B A"], frames: int
  ) -> Float[Array, "B frames E"]:
    """Encode sound at 16 kHz that is as long as the frames, and normed."""
    model: Any = self.network.bind(params)
    return model(samples, frames, self.config.interpolate)

  @functools.cached_property
  def _encode(self):
    return jax.jit(self.features, static_argnums=2)


def prepared(
  samples: Float[np.ndarray, "A"], sample_rate: int, length: int
) -> Float32[np.ndarray, "length"]:
  """Return `length` samples at 16 kHz: mean 0, variance 1, then silence.

  ValueError if the waveform is not mono.
  """
  heard = sound.at_rate(samples, sample_rate)[:length]
  out = np.zeros(length, np.float32)
  if len(heard):
    spread = np.sqrt(heard.var() + _SILENCE)
    out[: len(heard)] = (heard - heard.mean()) / spread
  return out


def normed(
  samples: Float[Array, "B A"], heard: Int[Array, "B"]
) -> Float[Array, "B A"]:
  """Return what `prepared` does of sound at 16 kHz, within a program.

  heard: how many samples there are, from 0 to A; the others are silence.
  """
  is_heard = jnp.arange(samples.shape[1]) < heard[:, None]
  count = jnp.maximum(heard, 1)[:, None]
  mean = lambda x: (
    jnp.sum(jnp.where(is_heard, x, 0), axis=1, keepdims=True) / count
  )
  centred = samples - mean(samples)
  spread = jnp.sqrt(mean(centred**2) + _SILENCE)
  return jnp.where(is_heard, centred / spread, 0)
