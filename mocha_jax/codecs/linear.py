"""A linear 3D autoencoder: the principal components of blocks of pixels.

A block of r frames, s rows and s columns, 3 r s^2 numbers x, becomes one
latent z = (W x - mean) basis / scale, and W^-1 (z scale basis^T + mean) again.
W weighs what the eye minds more than squared error does: what changes within
the block's frames, and each pixel's colour along the axes of Ohta's space,
I1 = (1, 1, 1) / √3 brightness, I2 = (1, 0, -1) / √2 orange-blue and
I3 = (-1, 2, -1) / √6 green-magenta (Ohta, Kanade, Sakai 1980). The basis is
orthonormal, and no other of its width loses less of W x.
"""

import dataclasses
import functools
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from mocha_jax import sections as config_lib
from mocha_jax.codecs.grid import OnGrid, latent_shape

Frames = UInt8[np.ndarray, "*B F H W 3"]
Latents = Float[np.ndarray, "*B f h w c"]

# Blocks per product: sums of 1024 products of whole numbers below 128 stay
# within 2^24, so float32 holds them exactly, in whatever order they are added.
_CHUNK = 1024
_OHTA = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt(
  [[3], [2], [6]]
)
_MIDDLE = 128


@dataclasses.dataclass(frozen=True)
class CodecConfig:
  """Section `codec`: the block of one latent, and how much of it is kept.

  causal: frame 0 stands alone, repeated `time` times; 1 + 4k frames become
  1 + k latents (with time = 4). Otherwise 4k become k.
  motion_weight: what a change within the block's frames counts for.
  color_weights: what brightness, orange-blue and green-magenta count for.
  All 1: least squared error. More keeps what is small, but moves or has a
  strong colour, such as a mouth.
  """

  name: Literal["linear"]
  time: int
  space: int
  channels: int
  causal: bool
  motion_weight: float
  color_weights: tuple[float, float, float]

  def __post_init__(self):
    if min(self.motion_weight, *self.color_weights) <= 0:
      raise ValueError(
        f"motion_weight={self.motion_weight} and"
        f" color_weights={self.color_weights} must be above 0"
      )
    for key in ("time", "space", "channels"):
      if getattr(self, key) < 1:
        raise ValueError(f"{key}={getattr(self, key)} must be at least 1")
    if self.channels > self.block:
      raise ValueError(
        f"channels={self.channels} must be at most {self.block}, the numbers"
        f" in a block of {self.time}x{self.space}x{self.space} pixels"
      )

  @property
  def block(self) -> int:
    """Numbers in one block."""
    return 3 * self.time * self.space**2

  @property
  def weights(self) -> Float64[np.ndarray, "x x"]:
    """W, symmetric."""
    mean = np.full((self.time, self.time), 1 / self.time)
    motion = mean + self.motion_weight * (np.eye(self.time) - mean)
    color = _OHTA.T @ np.diag(self.color_weights) @ _OHTA
    return np.kron(motion, np.kron(np.eye(self.space**2), color))


@dataclasses.dataclass(frozen=True, eq=False)
class LinearCodec(OnGrid):
  """Encodes and decodes clips; see the module's equation."""

  config: CodecConfig
  mean: Float32[np.ndarray, "x"]
  basis: Float32[np.ndarray, "x c"]
  scale: float

  def encode(self, frames: Frames) -> Float32[np.ndarray, "*B f h w c"]:
    """Turn frames, of one clip or of many, into latents of unit variance."""
    grid = self.latent_shape(*frames.shape[-4:-1])
    blocks = _blocks(frames, self.config).astype(np.float32)
    analysis, offset = self.analysis
    latents = blocks @ analysis
    latents += offset
    return latents.reshape(*frames.shape[:-4], *grid)

  def decode(self, latents: Latents) -> Frames:
    """Turn latents back into frames."""
    self.check_channels(latents)
    flat = latents.astype(np.float32).reshape(-1, self.channels)
    synthesis, mean = self.synthesis
    blocks = flat @ synthesis
    blocks += mean
    blocks = np.rint(blocks, out=blocks).clip(0, 255).astype(np.uint8)
    return _unblocks(blocks, latents.shape[:-1], self.config)

  @functools.cached_property
  def analysis(
    self,
  ) -> tuple[Float32[np.ndarray, "x c"], Float32[np.ndarray, "c"]]:
    """W basis / scale, and -mean basis / scale."""
    analysis = self.config.weights @ self.basis / self.scale
    return (
      np.ascontiguousarray(analysis, np.float32),
      -(self.mean @ (self.basis / np.float32(self.scale))),
    )

  @functools.cached_property
  def synthesis(
    self,
  ) -> tuple[Float32[np.ndarray, "c x"], Float32[np.ndarray, "x"]]:
    """Scale basis^T W^-1, and W^-1 mean."""
    back = np.linalg.inv(self.config.weights)
    synthesis = self.scale * self.basis.T @ back
    return (
      np.ascontiguousarray(synthesis, np.float32),
      (back @ self.mean).astype(np.float32),
    )

  def save(self, path: str | os.PathLike[str]) -> None:
    """Write one .npz file, config included, under its name at the end."""
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
      np.savez(
        file,
        config=np.array(json.dumps(dataclasses.asdict(self.config))),
        mean=self.mean,
        basis=self.basis,
        scale=np.float64(self.scale),
      )
    part.replace(path)


def load(path: str | os.PathLike[str]) -> LinearCodec:
  """Read a codec that `save` wrote; ValueError if the file is another."""
  if not pathlib.Path(path).is_file():
    raise ValueError(f"no codec file {path}")
  try:
    with np.load(path, allow_pickle=False) as file:
      config = json.loads(str(file["config"]))
      mean, basis = file["mean"], file["basis"]
      scale = float(file["scale"])
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path} is no linear codec: {error}") from error
  return LinearCodec(
    config_lib.section(CodecConfig, config, "codec"), mean, basis, scale
  )


def fit(config: CodecConfig, clips: Iterable[Frames]) -> LinearCodec:
  """Fit mean, basis and scale to clips, one after another.

  Deterministic: every sum is one of whole numbers, and exact.
  """
  count = 0
  total = np.zeros(config.block)
  products = np.zeros((config.block, config.block))
  for frames in clips:
    latent_shape(config, *frames.shape[-4:-1])
    blocks = _blocks(frames, config).astype(np.float32) - _MIDDLE
    for start in range(0, len(blocks), _CHUNK):
      chunk = blocks[start : start + _CHUNK]
      products += chunk.T @ chunk
      total += chunk.sum(0)
    count += len(blocks)
  if not count:
    raise ValueError("no clip to fit the codec to")
  weights = config.weights
  mean = total / count
  covariance = weights @ (products / count - np.outer(mean, mean)) @ weights
  values, vectors = np.linalg.eigh(covariance)
  kept = values[::-1][: config.channels]
  basis = vectors[:, ::-1][:, : config.channels]
  if kept[0] <= 0:
    raise ValueError("the clips show nothing but one colour: no codec fits")
  largest = np.take_along_axis(basis, np.abs(basis).argmax(0)[None], axis=0)
  return LinearCodec(
    config,
    mean=(weights @ (mean + _MIDDLE)).astype(np.float32),
    basis=np.ascontiguousarray(basis * np.sign(largest), np.float32),
    scale=float(np.sqrt(kept.mean())),  # Latents have unit mean square.
  )


def _blocks(frames: Frames, config: CodecConfig) -> UInt8[np.ndarray, "n x"]:
  """Cut clips into blocks, ordered as latents [*B f h w]."""
  if config.causal:
    first = np.repeat(frames[..., :1, :, :, :], config.time, axis=-4)
    frames = np.concatenate([first, frames[..., 1:, :, :, :]], axis=-4)
  r, s = config.time, config.space
  F, H, W = frames.shape[-4:-1]
  cut = frames.reshape(-1, F // r, r, H // s, s, W // s, s, 3)
  return cut.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, config.block)


def _unblocks(
  blocks: UInt8[np.ndarray, "n x"], grid: tuple[int, ...], config: CodecConfig
) -> Frames:
  """Lay blocks out as frames; the inverse of `_blocks`."""
  r, s = config.time, config.space
  *batch, f, h, w = grid
  cut = blocks.reshape(-1, f, h, w, r, s, s, 3)
  frames = cut.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  frames = frames.reshape(*batch, f * r, h * s, w * s, 3)
  return frames[..., r - 1 :, :, :, :] if config.causal else frames
