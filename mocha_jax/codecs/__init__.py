"""What turns frames into latents and back."""

import os
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from mocha_jax.codecs import linear
from mocha_jax.codecs.linear import CodecConfig

__all__ = ["Codec", "CodecConfig", "fit", "load"]


class Codec(Protocol):
  """Encodes and decodes clips, one at a time or batched."""

  @property
  def time(self) -> int:
    """Frames in one latent, r."""
    ...

  @property
  def space(self) -> int:
    """Rows, and columns, of pixels in one latent."""
    ...

  @property
  def channels(self) -> int:
    """Numbers in one latent."""
    ...

  @property
  def causal(self) -> bool:
    """Whether frame 0 is a latent of its own: 1 + r k frames, 1 + k latents."""
    ...

  def latent_shape(
    self, frames: int, height: int, width: int
  ) -> tuple[int, int, int, int]:
    """Return [f h w c] of such a clip; ValueError if it does not divide."""
    ...

  def encode(
    self, frames: UInt8[np.ndarray, "*B F H W 3"]
  ) -> Float[np.ndarray, "*B f h w c"]:
    """Turn frames into latents of about unit variance."""
    ...

  def decode(
    self, latents: Float[np.ndarray, "*B f h w c"]
  ) -> UInt8[np.ndarray, "*B F H W 3"]:
    """Turn latents back into frames."""
    ...

  def save(self, path: str | os.PathLike[str]) -> None:
    """Write all that `load` needs."""
    ...


def fit(
  config: CodecConfig, clips: Iterable[UInt8[np.ndarray, "F H W 3"]]
) -> Codec:
  """Fit the codec that the config names to training clips."""
  return linear.fit(config, clips)


def load(path: str | os.PathLike[str]) -> Codec:
  """Read a codec from the file that its `save` wrote."""
  return linear.load(path)
