"""The network of Wan2.1's causal 3D VAE, over clips of any length and size.

  frames -> convolution -> 4 levels, halved between -> middle -> mean of latents
  latents -> middle -> 4 levels, doubled between -> convolution -> frames

(arXiv 2503.20314, section 4.1; sizes of the released Wan2.1_VAE.pth.) A clip
goes through frame 0 first, then in chunks, and convolutions remember what was
before. The middles, where attention sees a whole frame, have 1/64 of the
places and take frames whole; the levels are convolutions and take tiles, with
halos that make them exact.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from mocha_jax.codecs import tiles
from mocha_jax.codecs.causal import (
  Attention,
  Cache,
  CausalConv,
  Down,
  Kept,
  Norm,
  Residual,
  Up,
  Video,
)
from mocha_jax.codecs.tiles import Tile

TIME, SPACE, CHANNELS = 4, 8, 16

# Channels of the four levels, from pixels to latents, in widths; which levels
# end in half the frames; residual blocks of a level, on both ways.
_LEVELS = (1, 2, 4, 4)
_HALVED = (False, True, True)
_DOWN, _UP = 2, 3

# Mean and standard deviation of each latent channel, as released: the lists
# `mean` and `std` of class WanVAE, wan/modules/vae.py of Wan-Video/Wan2.1, and
# `latents_mean` and `latents_std` of its vae/config.json for diffusers.
MEAN = (
  -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
  0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
  2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
  3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

Latents = Float[Array, "B f h w c"]


@dataclasses.dataclass(frozen=True)
class Cuts:
  """How a clip is cut for memory's sake; the results are the same.

  chunk: latent frames at a time, after the first.
  tile: rows and columns of latents of a tile, at most; 0 leaves frames whole.
  """

  chunk: int
  tile: int


class Middle(nnx.Module):
  """Two residual blocks around attention within frames."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.before = Residual(channels, channels, rngs=rngs)
    self.attention = Attention(channels, rngs=rngs)
    self.after = Residual(channels, channels, rngs=rngs)

  def __call__(self, x: Video, cache: Cache) -> Video:
    """Mix the places of each frame."""
    return self.after(self.attention(self.before(x, cache)), cache)


class Level(nnx.Module):
  """Residual blocks, and what halves or doubles what they return."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    blocks: int,
    resample: Down | Up | None,
    *,
    rngs: nnx.Rngs,
  ):
    self.blocks = nnx.List(
      Residual(outputs if i else inputs, outputs, rngs=rngs)
      for i in range(blocks)
    )
    self.resample = resample

  def __call__(self, x: Video, cache: Cache) -> Video:
    """Go through the blocks."""
    for block in self.blocks:
      x = block(x, cache)
    return x if self.resample is None else self.resample(x, cache)


class Head(nnx.Module):
  """Norm, SiLU and the last convolution, which returns float32."""

  def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
    self.norm = Norm(inputs)
    self.conv = CausalConv(inputs, outputs, time=3, space=3, rngs=rngs)

  def __call__(self, x: Video, cache: Cache) -> Video:
    """Return the outputs."""
    x = jax.nn.silu(self.norm(x))
    return self.conv(x, cache, dtype=jnp.float32)


class Encoder(nnx.Module):
  """From pixels to mean and logarithmic variance of the latents."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    sizes = [width, *(width * n for n in _LEVELS)]
    downs = [
      Down(outputs, time=time, rngs=rngs)
      for outputs, time in zip(sizes[1:], _HALVED, strict=False)
    ]
    self.conv = CausalConv(3, width, time=3, space=3, rngs=rngs)
    self.levels = nnx.List(
      Level(sizes[i], sizes[i + 1], _DOWN, down, rngs=rngs)
      for i, down in enumerate([*downs, None])
    )
    self.middle = Middle(sizes[-1], rngs=rngs)
    self.head = Head(sizes[-1], 2 * CHANNELS, rngs=rngs)

  def outer(self, x: Video, cache: Cache, tile: Tile) -> Video:
    """Halve a tile of pixels, with its halo, thrice; cut the halo off."""
    x = self.conv(x, cache)
    for i, level in enumerate(self.levels):
      x = level(x, cache)
      if i + 1 < len(self.levels):
        there = tile.at(SPACE >> i, self.halos[i]).halved()
        x = tiles.cut(x, there, tile.at(SPACE >> i + 1, self.halos[i + 1]))
    return tiles.cut(x, tile.at(1, self.halos[-1]), tile)

  def inner(self, x: Video, cache: Cache) -> Video:
    """Go on from there with whole frames."""
    return self.head(self.middle(x, cache), cache)

  @functools.cached_property
  def halos(self) -> list[int]:
    """Cells around a tile that each level needs; even, so that they halve.

    A block's convolutions reach 2 cells far, that which halves reaches 1 cell
    of the finer grid beyond the two of a coarser one, the first 1 pixel.
    """
    needed = [2 * _DOWN]
    for _ in self.levels[1:]:
      needed.insert(0, 2 * needed[0] + 2 + 2 * _DOWN)
    return [needed[0] + 2, *needed[1:]]


class Decoder(nnx.Module):
  """From latents to pixels."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    sizes = [width * n for n in _LEVELS[::-1]]
    ups = [
      Up(n, time=t, rngs=rngs)
      for n, t in zip(sizes, _HALVED[::-1], strict=False)
    ]
    self.conv = CausalConv(CHANNELS, sizes[0], time=3, space=3, rngs=rngs)
    self.middle = Middle(sizes[0], rngs=rngs)
    # What doubles leaves half the channels.
    inputs = [sizes[0], *(n // 2 for n in sizes)]
    self.levels = nnx.List(
      Level(inputs[i], sizes[i], _UP, up, rngs=rngs)
      for i, up in enumerate([*ups, None])
    )
    self.head = Head(sizes[-1], 3, rngs=rngs)

  def inner(self, x: Latents, cache: Cache) -> Video:
    """Begin with whole frames."""
    return self.middle(self.conv(x, cache), cache)

  def outer(self, x: Video, cache: Cache, tile: Tile) -> Video:
    """Double a tile, with its halo, thrice, into pixels; cut the halo off."""
    for i, level in enumerate(self.levels):
      x = level(x, cache)
      if i + 1 < len(self.levels):
        there = tile.at(1 << i, self.halos[i]).doubled()
        x = tiles.cut(x, there, tile.at(2 << i, self.halos[i + 1]))
    x = self.head(x, cache)
    return tiles.cut(x, tile.at(SPACE, self.halos[-1]), tile.at(SPACE, 0))

  @functools.cached_property
  def halos(self) -> list[int]:
    """Cells around a tile that each level needs.

    A block's convolutions reach 2 cells far, that which doubles reaches 1 cell
    of the finer grid, the last 1 pixel.
    """
    needed = [2 * _UP + 1]
    for _ in self.levels[1:]:
      needed.insert(0, 2 * _UP + (needed[0] + 2) // 2)
    return needed


class WanNetwork(nnx.Module):
  """Encoder and decoder; latents are normalised.

  width: channels of the first level; 96 in the released weights.
  dtype: of activations. Sums of norms and attention's softmax are float32.
  """

  def __init__(self, width: int, *, dtype: str, rngs: nnx.Rngs):
    one = lambda channels: CausalConv(
      channels, channels, time=1, space=1, rngs=rngs
    )
    self.encoder = Encoder(width, rngs=rngs)
    self.moments = one(2 * CHANNELS)
    self.latents = one(CHANNELS)
    self.decoder = Decoder(width, rngs=rngs)
    self.dtype = jnp.dtype(dtype)

  def encode(
    self, frames: Num[Array, "B F H W 3"], cuts: Cuts
  ) -> Float[Array, "B f h w c"]:
    """Return the posterior's mean, at unit variance.

    frames: uint8, or from -1 to 1; 1 + 4k of them, sides multiples of 8.
    """
    _, length, height, width, _ = frames.shape

    def outer(tile: Tile) -> Video:
      inputs = tile.at(SPACE, self.encoder.halos[0])

      def step(start, length, past):
        x = jax.lax.dynamic_slice_in_dim(frames, start, length, 1)
        x = tiles.cut(x, tiles.whole(height, width), inputs)
        cache = Cache(past)
        return self.encoder.outer(self._pixels(x), cache, tile), cache.kept

      return over_time(step, length, TIME * cuts.chunk)

    rows, columns = height // SPACE, width // SPACE
    x = tiles.assemble(outer, rows, columns, most=cuts.tile, scale=1)

    def inner(start, length, past):
      cache = Cache(past)
      part = jax.lax.dynamic_slice_in_dim(x, start, length, 1)
      return self.encoder.inner(part, cache), cache.kept

    moments = over_time(inner, x.shape[1], cuts.chunk).astype(self.dtype)
    moments = self.moments(moments, Cache(None)).astype(jnp.float32)
    mean = moments[..., :CHANNELS]
    return (mean - jnp.asarray(MEAN)) / jnp.asarray(STD)

  def decode(
    self, latents: Latents, cuts: Cuts, *, dtype: str
  ) -> Num[Array, "B F H W 3"]:
    """Return frames: uint8, or another type from -1 to 1."""
    _, length, rows, columns, _ = latents.shape
    latents = latents.astype(jnp.float32) * jnp.asarray(STD) + jnp.asarray(MEAN)
    z = self.latents(latents.astype(self.dtype), Cache(None))

    def inner(start, length, past):
      cache = Cache(past)
      part = jax.lax.dynamic_slice_in_dim(z, start, length, 1)
      return self.decoder.inner(part, cache), cache.kept

    x = over_time(inner, length, cuts.chunk)

    def outer(tile: Tile) -> Video:
      inputs = tile.at(1, self.decoder.halos[0])

      def step(start, length, past):
        part = jax.lax.dynamic_slice_in_dim(x, start, length, 1)
        part = tiles.cut(part, tiles.whole(rows, columns), inputs)
        cache = Cache(past)
        made = self.decoder.outer(part, cache, tile)
        return _frames(made, dtype), cache.kept

      return over_time(step, length, cuts.chunk)

    return tiles.assemble(outer, rows, columns, most=cuts.tile, scale=SPACE)

  def _pixels(self, frames: Num[Array, "B F H W 3"]) -> Video:
    if frames.dtype == jnp.uint8:
      frames = frames.astype(jnp.float32) / 127.5 - 1
    return frames.astype(self.dtype)


def _frames(x: Video, dtype: str) -> Num[Array, "B F H W 3"]:
  x = jnp.clip(x, -1, 1)
  if dtype == "uint8":
    x = jnp.round((x + 1) * 127.5)
  return x.astype(dtype)


def over_time(
  step: Callable[[int | Array, int, Kept | None], tuple[Array, Kept]],
  length: int,
  size: int,
) -> Array:
  """Go over so many frames, `size` at a time after frame 0, all in one array.

  step: given the first frame of a chunk, how many there are and what the chunk
    before kept, returns "B f ..." and what it keeps; given None at frame 0.
  """
  first, kept = step(0, 1, None)
  made = [first]
  chunks, left = divmod(length - 1, size)
  if chunks:

    def body(kept, i):
      x, kept = step(1 + i * size, size, kept)
      return kept, x

    kept, x = jax.lax.scan(body, kept, jnp.arange(chunks))
    x = jnp.moveaxis(x, 0, 1)
    made.append(x.reshape(x.shape[0], -1, *x.shape[3:]))
  if left:
    made.append(step(1 + chunks * size, left, kept)[0])
  return jnp.concatenate(made, axis=1)
