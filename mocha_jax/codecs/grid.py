"""The grid of latents that a clip becomes, whatever the codec."""

from typing import Protocol

import numpy as np


class Ratios(Protocol):
  """What of a codec's config decides its grid.

  time: frames in one latent, r. space: rows, and columns, of pixels in one.
  channels: numbers in one. causal: frame 0 stands alone, so that 1 + r k frames
  become 1 + k latents; otherwise r k become k.
  """

  @property
  def time(self) -> int: ...  # noqa: D102
  @property
  def space(self) -> int: ...  # noqa: D102
  @property
  def channels(self) -> int: ...  # noqa: D102
  @property
  def causal(self) -> bool: ...  # noqa: D102


def latent_shape(
  config: Ratios, frames: int, height: int, width: int
) -> tuple[int, int, int, int]:
  """Return [f h w c] of a clip; ValueError names the nearest that divide."""
  alone = 1 if config.causal else 0
  if frames < 1 or (frames - alone) % config.time:
    rule = f"1 + a multiple of {config.time}" if alone else None
    below = frames - (frames - alone) % config.time
    raise _indivisible("frames", frames, (below, config.time), rule=rule)
  for name, size in (("height", height), ("width", width)):
    if size < 1 or size % config.space:
      below = size - size % config.space
      raise _indivisible(name, size, (below, config.space))
  return (
    alone + (frames - alone) // config.time,
    height // config.space,
    width // config.space,
    config.channels,
  )


class OnGrid:
  """What a codec's config says of the grid, as the codec's own."""

  config: Ratios

  @property
  def time(self) -> int:
    """Frames in one latent."""
    return self.config.time

  @property
  def space(self) -> int:
    """Rows, and columns, of pixels in one latent."""
    return self.config.space

  @property
  def channels(self) -> int:
    """Numbers in one latent."""
    return self.config.channels

  @property
  def causal(self) -> bool:
    """Whether frame 0 stands alone."""
    return self.config.causal

  def latent_shape(
    self, frames: int, height: int, width: int
  ) -> tuple[int, int, int, int]:
    """Return [f h w c] of such a clip; ValueError if it does not divide."""
    return latent_shape(self.config, frames, height, width)

  def check_channels(self, latents: np.ndarray) -> None:
    """Raise a ValueError unless latents [... c] are this codec's."""
    if latents.shape[-1] != self.channels:
      raise ValueError(
        f"latents have {latents.shape[-1]} channels; this codec has"
        f" {self.channels}"
      )


def _indivisible(
  name: str, value: int, near: tuple[int, int], *, rule: str | None = None
) -> ValueError:
  below, step = near
  choices = [str(c) for c in (below, below + step) if c >= 1]
  return ValueError(
    f"{name}={value} must be {rule or f'a multiple of {step}'} for the codec:"
    f" {' or '.join(choices)}"
  )
