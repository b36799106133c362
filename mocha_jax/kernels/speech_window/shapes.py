"""The sizes that speech-video window attention is measured and tested at.

And what it must cost there, counted as 2 operations per multiply-add of the
matrix products. With T video tokens and S speech tokens in B clips, forward:

  published, dense      4 T D N H + 4 B S D N H + 4 T S N H
  published, gathered   4 T D N H + 4 B S D N H + 4 T R N H
  folding               4 B S D N H + 4 B f R D N H
  collapsed             4 T R N D

with tokens projected once each and windows gathered after. The gradients take
two products for each one forward, so both passes are 3 times this.
"""

import dataclasses
from typing import Any

from mocha_jax.kernels.speech_window.geometry import Geometry


@dataclasses.dataclass(frozen=True)
class Shape:
  """One layer's sizes.

  batch: clips, B. frames: latent frames of a clip, f. tokens: of a frame, h w.
  width, heads, head: D, N and H. ratio, causal: see `Geometry`.
  itemsize: bytes of a number, 2 for bfloat16 and 4 for float32.
  """

  name: str
  batch: int
  frames: int
  tokens: int
  width: int
  heads: int
  head: int
  ratio: int
  causal: bool
  itemsize: int

  def __str__(self) -> str:
    return self.name

  @property
  def geometry(self) -> Geometry:
    """Windows that are clipped at the ends, without an order."""
    return Geometry(self.ratio, self.causal, edge="clip", order="none")

  @property
  def speech(self) -> int:
    """Speech tokens of a clip, S: one per video frame."""
    return self.ratio * (self.frames - self.causal) + self.causal

  @property
  def slots(self) -> int:
    """Tokens in a window, R."""
    return self.geometry.width

  @property
  def video_tokens(self) -> int:
    """Video tokens of all clips, T."""
    return self.batch * self.frames * self.tokens

  @property
  def folded_size(self) -> int:
    """Numbers in K', as many as in V'."""
    return self.batch * self.frames * self.slots * self.heads * self.width


def _paper(name: str, frames: int, tokens: int) -> Shape:
  return Shape(
    name,
    batch=1,
    frames=frames,
    tokens=tokens,
    width=6144,
    heads=48,
    head=128,
    ratio=4,
    causal=True,
    itemsize=2,
  )


# 720 x 720 pixels / 8 / 2 = 45 x 45 = 2,025 tokens a frame; 125 video frames
# are 32 latent ones: 64,800 tokens.
MOCHA_30B = _paper("mocha_30b", 32, 2025)
# 976 x 528 / 8 / 2 = 61 x 33 = 2,013: 64,416 tokens.
MOCHA_30B_WIDE = _paper("mocha_30b_64416", 32, 2013)
# 4 frames, 8,100 tokens: a short clip, or the share of one of eight devices.
MOCHA_30B_SHORT = _paper("mocha_30b_8100", 4, 2025)
MOCHA_4B = dataclasses.replace(MOCHA_30B, name="mocha_4b", width=3072, heads=24)
# The quickstart: 6 clips of 48 frames, 64 x 64 pixels / 8 / 2 = 4 x 4 tokens.
TOY = Shape(
  "toy",
  batch=6,
  frames=12,
  tokens=16,
  width=192,
  heads=3,
  head=64,
  ratio=4,
  causal=False,
  itemsize=4,
)
BENCH = (MOCHA_30B, MOCHA_30B_WIDE, MOCHA_4B, MOCHA_30B_SHORT, TOY)


def _small(name: str, **sizes: Any) -> Shape:
  given: dict[str, Any] = dict(
    batch=2,
    frames=3,
    tokens=16,
    width=128,
    heads=4,
    head=8,
    ratio=4,
    causal=False,
    itemsize=4,
  )
  return Shape(name, **given | sizes)


# What a kernel could trip over, each as small as it may be.
CI = (
  _small("heads_3_width_192", heads=3, width=192),
  _small("heads_6_odd_tokens", heads=6, tokens=25),
  _small("heads_12_causal", heads=12, causal=True),
  _small("heads_48", heads=48, batch=1, frames=2),
  _small("heads_1_one_token", heads=1, tokens=1, frames=2),
  _small("ratio_8", ratio=8, heads=5),
  _small("ratio_8_causal", ratio=8, causal=True, frames=2),
  _small("ragged_last_block", batch=1, frames=2, tokens=517, heads=3),
)


def published_flops(shape: Shape, *, dense: bool, both: bool) -> int:
  """Return the operations of the published form, dense or gathered."""
  inner = shape.heads * shape.head
  reached = shape.speech if dense else shape.slots
  projections = shape.video_tokens + shape.batch * shape.speech
  products = 4 * projections * shape.width * inner
  products += 4 * shape.video_tokens * reached * inner
  return products * (3 if both else 1)


def folding_flops(shape: Shape, *, both: bool) -> int:
  """Return the operations of folding the projections into the speech."""
  inner = shape.heads * shape.head
  rows = shape.batch * (shape.speech + shape.frames * shape.slots)
  return 4 * rows * shape.width * inner * (3 if both else 1)


def collapsed_flops(shape: Shape, *, both: bool) -> int:
  """Return the operations of attending to folded speech.

  Of keeping the probabilities, that is: a backward pass that computes the
  scores anew takes half of a forward pass more.
  """
  product = 2 * shape.video_tokens * shape.slots * shape.heads * shape.width
  return product * (6 if both else 2)


def collapsed_bytes(shape: Shape, *, both: bool) -> int:
  """Return the bytes that must cross to memory, whatever else is kept.

  Forward reads x, K', V' and writes out; backward reads x, K', V' and the
  cotangent of out, and writes those of x, K' and V'.
  """
  video = shape.video_tokens * shape.width
  forward = 2 * video + 2 * shape.folded_size
  backward = 3 * video + 4 * shape.folded_size
  return (forward + (backward if both else 0)) * shape.itemsize


def floor_seconds(
  shape: Shape,
  *,
  both: bool,
  flops_per_second: float,
  bytes_per_second: float,
) -> float:
  """Return the least time of the collapsed form on a device of such peaks."""
  flops, moved = (
    [count(shape, both=passes) for passes in (False, True)]
    for count in (collapsed_flops, collapsed_bytes)
  )
  least = lambda flops, moved: max(
    flops / flops_per_second, moved / bytes_per_second
  )
  forward = least(flops[0], moved[0])
  backward = least(flops[1] - flops[0], moved[1] - moved[0])
  return forward + backward if both else forward
