"""How tokens and windows are cut into what a TPU core holds at once.

A clip's tokens, all frames after one another, are a free view of x. Cut by
frames they are not: 45 x 45 tokens would first have to be moved to where tiles
start. So blocks of tokens have no regard to frames, and a block is visited once
for each frame that it meets, in order,

  frame   0  0  0  1  1  1  2 ..
  block   0  1  2  2  3  4  4 ..

and every visit writes the tokens from its frame's first on, so that those of a
frame are last written by its own. A block's visits follow one another, and so
do a frame's: each stays in fast memory meanwhile, and is moved once.

For chips whose two cores share a kernel a clip is cut in parts between two
frames. Both parts visit the block on the cut, for all its frames, and write the
same to it; each sums up gradients for its own frames alone.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Int

# Only sizes are asked for.
Sized = Array | jax.ShapeDtypeStruct

# Fast memory of a core: 64 MiB on v5p and tpu7x, 128 on v5e and v6e. The
# compiler keeps some to itself.
VMEM = 64 * 2**20 - 2**19

# The rows of the table of visits.
FRAME, BLOCK, OWNED, OURS = range(4)


def matrix_unit(device_kind: str | None) -> int:
  """Return the width of a TPU's matrix unit, of a new one if not known."""
  old = ("TPU v2", "TPU v3", "TPU v4", "TPU v5")
  return 128 if device_kind and device_kind.startswith(old) else 256


def target() -> str | None:
  """Return the kind of the devices that are compiled for, as far as known."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device and device.device_kind


@dataclasses.dataclass(frozen=True)
class Tiling:
  """What a kernel is built for.

  frames, tokens, width, slots, heads: f, h w, D, R and N of one device.
  block: tokens. parts: of a clip.
  stride: rows from slot to slot, N heads and what fills up their last tile.
  """

  batch: int
  frames: int
  tokens: int
  width: int
  slots: int
  heads: int
  block: int
  parts: int
  stride: int

  @classmethod
  def of(cls, x: Sized, key: Sized, block: int) -> "Tiling":
    """Cut x [B f hw D] and K' [B f R N D] into blocks of so many tokens."""
    batch, frames, tokens, width = x.shape
    slots, heads = key.shape[2:4]
    tile = 8 if heads % 8 == 0 else 32 // x.dtype.itemsize
    return cls(
      *(batch, frames, tokens, width, slots, heads),
      block=min(block, frames * tokens),
      # Two cores may as well take a clip each.
      parts=1 if batch % 2 == 0 else min(2, frames),
      stride=-(-heads // tile) * tile,
    )

  @property
  def length(self) -> int:
    """Tokens of a clip."""
    return self.frames * self.tokens

  @property
  def rest(self) -> int:
    """Tokens in the last block, if it is not full."""
    return self.length % self.block

  @property
  def rows(self) -> int:
    """Rows of a frame's K', with what fills up tiles."""
    return self.slots * self.stride

  def split(self, heads: int) -> tuple[int, ...]:
    """Return the axes R N as a kernel sees them: one, where that is free."""
    if self.stride == self.heads:
      return (self.rows,)
    return self.slots, heads

  def fits(self, itemsize: int) -> bool:
    """Say whether what the backward pass holds has room in fast memory."""
    block, frame = self.block * self.width, self.rows * self.width
    # Twice, one in use and one on its way: x, g, dx, K' and V'. Once: dK' and
    # dV', and their float32 sums.
    held = itemsize * (6 * block + 6 * frame) + 4 * 2 * frame
    return held < 0.9 * VMEM

  def visits(self) -> Int[np.ndarray, "4 parts visits"]:
    """Return of each visit its frame and block, and whose gradients it sums.

    OWNED is the frame of the part whose gradients are in fast memory, OURS
    whether this visit adds to them.
    """
    table = [self._part(part) for part in range(self.parts)]
    longest = max(map(len, table))
    for visits in table:  # A visit made again, and not ours, changes nothing.
      visits += [(*visits[-1][:OURS], False)] * (longest - len(visits))
    return np.array(table, np.int32).transpose(2, 0, 1)

  def _part(self, part: int) -> list[tuple[int, int, int, bool]]:
    first = self.frames * part // self.parts
    last = self.frames * (part + 1) // self.parts - 1
    return [
      (frame, block, min(max(frame, first), last), first <= frame <= last)
      for block in range(
        first * self.tokens // self.block,
        ((last + 1) * self.tokens - 1) // self.block + 1,
      )
      for frame in self._frames(block)
    ]

  def _frames(self, block: int) -> range:
    """Return the frames that have tokens in a block."""
    last = ((block + 1) * self.block - 1) // self.tokens
    return range(block * self.block // self.tokens, min(last + 1, self.frames))
