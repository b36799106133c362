"""How a kernel walks the tokens of a clip: in blocks, with no regard to frames.

A clip's tokens, all frames after one another, are a free view of x. Cut by
frames they are not: 45 x 45 tokens would first have to be moved to where tiles
start. So a block is visited once for each frame that it meets, in order,

  frame   0  0  0  1  1  1  2 ..
  block   0  1  2  2  3  4  4 ..

and every visit writes the tokens from its frame's first on, so that those of a
frame are last written by its own. A block's visits follow one another, and so
do a frame's: each stays in fast memory meanwhile.

For chips whose two cores share a kernel a clip is cut in parts between two
frames. Both parts visit the block on the cut, for all its frames, and write the
same to it; each sums up gradients for its own frames alone.
"""

import dataclasses

import numpy as np
from jaxtyping import Int

# The rows of the table of visits.
FRAME, BLOCK, OWNED, OURS = range(4)


@dataclasses.dataclass(frozen=True)
class Walk:
  """A walk over clips of `frames` x `tokens`, in blocks of so many tokens."""

  frames: int
  tokens: int
  block: int
  parts: int

  @property
  def length(self) -> int:
    """Tokens of a clip."""
    return self.frames * self.tokens

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
