"""Layers of a causal video autoencoder, which see a clip chunk by chunk.

No layer looks ahead, so a clip goes through in chunks of frames, and what comes
out is that of the whole clip at once, as long as every convolution remembers
the last frames of the chunk before: `Cache`. The first chunk is frame 0 alone,
which is not halved or doubled in time:

  halved   y[0] = x[0]  y[k] = sum_j K[j] x[2k - 2 + j], j = 0, 1, 2
  doubled  y[0] = x[0]  y[2k - 1], y[2k] = sum_j K[j] x[k - 2 + j], x[<= 0] = 0

(Wan2.1, arXiv 2503.20314, section 4.1.) Norms are fp32 islands.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Video = Float[Array, "B f h w c"]
Kept = tuple[Video, ...]

_TAPS = 3  # Of a convolution, in time and space.
_LEAST = 1e-12  # Norm of a vector that is not 0.


class Cache:
  """The frames before a chunk, of every convolution in time, in their order.

  Trace-time state: make one for each chunk from what the one before `kept`, or
  from None where there is none.
  """

  def __init__(self, past: Kept | None):
    self.first = past is None
    self._past: Iterator[Video] = iter(past or ())
    self._next: list[Video] = []

  def before(self, x: Video, frames: int) -> Video:
    """Return x with so many earlier frames before it, 0 before the clip."""
    if self.first:
      past = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
    else:
      past = next(self._past)
    x = jnp.concatenate([past, x], axis=1)
    self._next.append(x[:, -frames:])
    return x

  def remember(self, x: Video) -> None:
    """Leave frames to the next chunk as they are."""
    self._next.append(x)

  @property
  def kept(self) -> Kept:
    """What the next chunk takes, when this one is through."""
    return tuple(self._next)


def _kernel(rngs: nnx.Rngs, letters: str, shape: tuple[int, ...]) -> nnx.Param:
  noise = jax.random.truncated_normal(rngs.params(), -2, 2, shape)
  return nnx.Param(noise / math.prod(shape[:-1]) ** 0.5, letters=letters)


class CausalConv(nnx.Module):
  """A convolution over frames, rows and columns that sees no later frame.

  time, space: taps. Rows and columns are padded with zeros to keep their size.
  """

  def __init__(
    self, inputs: int, outputs: int, *, time: int, space: int, rngs: nnx.Rngs
  ):
    shape = (time, space, space, inputs, outputs)
    self.kernel = _kernel(rngs, "f h w I O", shape)
    self.bias = nnx.Param(jnp.zeros(outputs), letters="O")

  def __call__(
    self, x: Video, cache: Cache, *, stride: int = 1, dtype=None
  ) -> Video:
    """Convolve; dtype: of the result, unless it is that of x."""
    taps, rows, *_ = self.kernel.shape
    if taps > stride:
      x = cache.before(x, taps - stride)
    dtype = dtype or x.dtype
    y = jax.lax.conv_general_dilated(
      x,
      self.kernel[...].astype(x.dtype),
      (stride, 1, 1),
      [(0, 0), *[(rows // 2, rows // 2)] * 2],
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
      preferred_element_type=dtype,
    )
    return y + self.bias[...].astype(dtype)


class FrameConv(nnx.Module):
  """A 3x3 convolution of each frame for itself."""

  def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
    self.kernel = _kernel(rngs, "h w I O", (_TAPS, _TAPS, inputs, outputs))
    self.bias = nnx.Param(jnp.zeros(outputs), letters="O")

  def __call__(
    self, x: Video, *, stride: int, padding: tuple[int, int]
  ) -> Video:
    """Convolve; padding: zeros before and after, in rows as in columns."""
    batch, frames, *_ = x.shape
    y = jax.lax.conv_general_dilated(
      x.reshape(-1, *x.shape[2:]),
      self.kernel[...].astype(x.dtype),
      (stride, stride),
      [padding, padding],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    y += self.bias[...].astype(x.dtype)
    return y.reshape(batch, frames, *y.shape[1:])


class Norm(nnx.Module):
  """x / |x| * sqrt(c) * scale, over channels."""

  def __init__(self, channels: int):
    self.scale = nnx.Param(jnp.ones(channels), letters="c")

  def __call__(self, x: Video) -> Video:
    """Return x at unit root mean square, scaled."""
    y = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(y**2, axis=-1, keepdims=True))
    y /= jnp.maximum(norm, _LEAST)
    y *= self.scale[...].astype(jnp.float32) * y.shape[-1] ** 0.5
    return y.astype(x.dtype)


class Residual(nnx.Module):
  """x + two convolutions, each after norm and SiLU."""

  def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
    conv = lambda i, o, taps: CausalConv(i, o, time=taps, space=taps, rngs=rngs)
    self.norm1 = Norm(inputs)
    self.conv1 = conv(inputs, outputs, _TAPS)
    self.norm2 = Norm(outputs)
    self.conv2 = conv(outputs, outputs, _TAPS)
    self.shortcut = None if inputs == outputs else conv(inputs, outputs, 1)

  def __call__(self, x: Video, cache: Cache) -> Video:
    """Return what has as many channels as the block's outputs."""
    y = self.conv1(jax.nn.silu(self.norm1(x)), cache)
    y = self.conv2(jax.nn.silu(self.norm2(y)), cache)
    return y + (x if self.shortcut is None else self.shortcut(x, cache))


class Attention(nnx.Module):
  """x + attention of all places of a frame to each other, with one head."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.norm = Norm(channels)
    self.qkv = _kernel(rngs, "I O", (channels, 3 * channels))
    self.qkv_bias = nnx.Param(jnp.zeros(3 * channels), letters="O")
    self.out = _kernel(rngs, "I O", (channels, channels))
    self.out_bias = nnx.Param(jnp.zeros(channels), letters="O")

  def __call__(self, x: Video) -> Video:
    """Mix the places of each frame."""
    batch, frames, rows, columns, channels = x.shape
    weights = (self.qkv, self.qkv_bias, self.out, self.out_bias)
    qkv, qkv_bias, out, out_bias = (w[...].astype(x.dtype) for w in weights)
    y = self.norm(x).reshape(batch * frames, rows * columns, 1, channels)
    q, k, v = jnp.split(y @ qkv + qkv_bias, 3, axis=-1)
    y = jax.nn.dot_product_attention(q, k, v) @ out + out_bias
    return x + y.reshape(x.shape)


class Down(nnx.Module):
  """Half as many rows and columns, and frames if `time`."""

  def __init__(self, channels: int, *, time: bool, rngs: nnx.Rngs):
    self.conv = FrameConv(channels, channels, rngs=rngs)
    self.time_conv = (
      CausalConv(channels, channels, time=_TAPS, space=1, rngs=rngs)
      if time
      else None
    )

  def __call__(self, x: Video, cache: Cache) -> Video:
    """Halve a chunk; the first frame is not halved in time."""
    x = self.conv(x, stride=2, padding=(0, 1))
    if self.time_conv is None:
      return x
    if cache.first:
      cache.remember(x)
      return x
    return self.time_conv(x, cache, stride=2)


class Up(nnx.Module):
  """Twice as many rows and columns, and frames if `time`; half the channels."""

  def __init__(self, channels: int, *, time: bool, rngs: nnx.Rngs):
    self.time_conv = (
      CausalConv(channels, 2 * channels, time=_TAPS, space=1, rngs=rngs)
      if time
      else None
    )
    self.conv = FrameConv(channels, channels // 2, rngs=rngs)

  def __call__(self, x: Video, cache: Cache) -> Video:
    """Double a chunk; the first frame is not doubled in time."""
    if self.time_conv is not None:
      x = self._doubled(x, cache, self.time_conv)
    x = x.repeat(2, axis=2).repeat(2, axis=3)
    return self.conv(x, stride=1, padding=(1, 1))

  def _doubled(self, x: Video, cache: Cache, conv: CausalConv) -> Video:
    if cache.first:
      cache.remember(jnp.zeros((x.shape[0], _TAPS - 1, *x.shape[2:]), x.dtype))
      return x
    batch, frames, rows, columns, channels = x.shape
    y = conv(x, cache).reshape(batch, frames, rows, columns, 2, channels)
    y = jnp.moveaxis(y, 4, 2)
    return y.reshape(batch, 2 * frames, rows, columns, channels)
