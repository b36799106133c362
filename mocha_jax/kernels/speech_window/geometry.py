"""Which speech tokens each latent frame attends to, and in what order.

With r video frames per latent frame and 0-based frames,

  window(i) = speech[first(i) .. first(i) + r + 1]       R = r + 2 tokens
  first(i) = r i - 1      plain codec:  latent i = frames r i .. r i + r - 1
  first(i) = r i - r      causal codec: latent i = frames r i - r + 1 .. r i,
                                        latent 0 = frame 0

its own r frames and one more on either side (MoCha, section 3.2).
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

Order = Literal["none", "slots", "rope"]
Edge = Literal["clip", "shift"]


@dataclasses.dataclass(frozen=True)
class Geometry:
  """The windows of a clip.

  ratio: video frames per latent frame, r.
  causal: the codec's alignment, see the module.
  edge: at the ends of the speech "clip" masks tokens outside 0..S-1, "shift"
    moves the window inwards and keeps its R tokens.
  order: what tells the R tokens apart: nothing, a learned vector per slot, or
    a fixed rotation of the key per slot.
  """

  ratio: int
  causal: bool
  edge: Edge
  order: Order

  def __post_init__(self):
    if self.ratio < 1:
      raise ValueError(f"ratio={self.ratio}: at least 1 video frame per latent")

  @property
  def width(self) -> int:
    """Tokens in a window, R."""
    return self.ratio + 2

  def frames(self, speech_tokens: int) -> int:
    """Return how many latent frames so many video frames make.

    Raises:
      ValueError: no whole number of latent frames.
    """
    frames, rest = divmod(speech_tokens - self.causal, self.ratio)
    if rest or frames + self.causal < 1:
      grid = f"{self.ratio}k + 1" if self.causal else f"{self.ratio}k"
      raise ValueError(f"{speech_tokens} video frames: must be {grid}")
    return frames + self.causal

  def windows(
    self, frames: int, speech_tokens: int
  ) -> tuple[Int[np.ndarray, "f R"], Bool[np.ndarray, "f R"]]:
    """Return the index of every token of every window, and which are there."""
    lead = self.ratio if self.causal else 1
    first = self.ratio * np.arange(frames) - lead
    if self.edge == "shift":
      first = np.clip(first, 0, max(0, speech_tokens - self.width))
    index = first[:, None] + np.arange(self.width)
    valid = (index >= 0) & (index < speech_tokens)
    return np.clip(index, 0, speech_tokens - 1), valid
