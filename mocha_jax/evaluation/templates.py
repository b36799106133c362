"""Drawn characters to compare pictures with: what fits best is what is seen.

A picture and a drawing are compared by their mean squared difference, weighted
by how much of each pixel the character covers, at every small shift.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.toy import palette

# How far a head strays from its place, in head units.
REACH = 0.36

Box = tuple[float, float, float, float]  # top, bottom, left, right; head units
HEAD: Box = (-1.25, 0.22, -1.05, 1.05)  # All above the mouth.
BROWS: Box = (-0.80, -0.32, -0.64, 0.64)


@dataclasses.dataclass(frozen=True)
class Stage:
  """Where a character stands: keys of palette.SHOTS and SIDES; pixels."""

  shot: str
  side: str
  height: int
  width: int

  @property
  def head(self) -> tuple[float, float, float]:
    """Return x, y and unit of the head, in pixels, when it holds still."""
    return palette.head_position(self.shot, self.side, self.height, self.width)

  def within(self, box: Box) -> Float[np.ndarray, "H W"]:
    """Return 1 where a pixel's centre lies in a box of head units, else 0."""
    x, y, unit = self.head
    across = (np.arange(self.width) + 0.5 - x) / unit
    down = (np.arange(self.height) + 0.5 - y) / unit
    top, bottom, left, right = box
    rows = (down >= top) & (down <= bottom)
    columns = (across >= left) & (across <= right)
    return (rows[:, None] & columns[None]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Template:
  """A drawing without backdrop: colour times cover, and cover in 0..1."""

  colour: Float[np.ndarray, "H W 3"]
  cover: Float[np.ndarray, "H W"]

  @property
  def solid(self) -> Float[np.ndarray, "H W"]:
    """Return 1 where nothing of the backdrop shows through, else 0."""
    return (self.cover > 0.97).astype(np.float32)

  def over(
    self, backdrop: Float[np.ndarray, "H W 3"]
  ) -> Float[np.ndarray, "H W 3"]:
    """Lay the drawing over a backdrop."""
    return self.colour + (1 - self.cover[..., None]) * backdrop


@functools.lru_cache(maxsize=512)
def character(stage: Stage, look: tuple[str, ...], swing: float) -> Template:
  """Draw who looks so (the values of toy's Look, in order) on a stage."""
  from data_pipelines.toy import body, canvas, face

  x, y, unit = stage.head
  images = []
  for ground in ((0, 0, 0), (255, 255, 255)):
    sheet = canvas.Canvas(stage.height, stage.width)
    sheet.image.paste(ground, (0, 0, *sheet.image.size))
    trunk = sheet.pen(x, y, unit, mirrored=stage.side == "left")
    head = sheet.pen(x, y, unit)
    person = face.Look(*look)
    face.draw_back_hair(head, person)
    body.draw_body(trunk, person)
    face.draw_head(head, person, _rest(), 0.0)
    body.draw_arm(trunk, person, swing)
    images.append(sheet.pixels().astype(np.float32))
  black, white = images
  cover = 1 - (white - black).mean(-1) / 255
  return Template(colour=black, cover=cover)


def _rest():
  from data_pipelines.toy import mouth

  return mouth.REST


@functools.lru_cache(maxsize=64)
def backdrop(name: str, height: int, width: int) -> np.ndarray:
  """Draw an empty place, [H W 3]."""
  from data_pipelines.toy import draw

  picture = draw.Picture("medium", name, (), draw.Camera())
  return draw.draw(picture, height, width).astype(np.float32)


class Search:
  """Compares pictures with drawings that are moved by up to `reach` pixels.

  Pictures are continued by their edges.
  """

  def __init__(self, frames: Float[np.ndarray, "n H W 3"], *, reach: int):
    self._reach = reach
    pad = [(0, 0), (reach, reach), (reach, reach), (0, 0)]
    padded = np.pad(frames, pad, mode="edge")
    self._size = padded.shape[1:3]
    self._energy = self._spectrum((padded**2).sum(-1))
    self._colours = [self._spectrum(padded[..., c]) for c in range(3)]

  def _spectrum(self, x: Float[np.ndarray, "*n h w"]) -> np.ndarray:
    return np.fft.rfft2(x, self._size, axes=(-2, -1))

  def errors(
    self,
    target: Float[np.ndarray, "H W 3"],
    weight: Float[np.ndarray, "H W"],
  ) -> Float[np.ndarray, "n D D"]:
    """Return the weighted mean squared difference at every shift.

      out[n, dy, dx] = mean_w (frames[n, y + dy, x + dx] - target[y, x])^2

    for dy, dx = -reach .. reach.
    """
    product = self._energy * np.conj(self._spectrum(weight))
    for c, colour in enumerate(self._colours):
      kernel = self._spectrum(weight * target[..., c])
      product -= 2 * colour * np.conj(kernel)
    # Correlations at non-negative shifts of the padded picture; no wrap there.
    found = np.fft.irfft2(product, self._size, axes=(-2, -1))
    window = found[:, : 2 * self._reach + 1, : 2 * self._reach + 1]
    own = (weight[..., None] * target**2).sum()
    total = max(float(weight.sum()), 1e-6)
    return np.maximum(window + own, 0) / (3 * total)


def best_shift(
  errors: Float[np.ndarray, "n D D"],
) -> Int[np.ndarray, "n 2"]:
  """Return dy, dx of each frame's smallest error."""
  reach = errors.shape[-1] // 2
  flat = errors.reshape(len(errors), -1).argmin(-1)
  found = np.stack(np.unravel_index(flat, errors.shape[1:]), -1)
  return found - reach


def shifted(
  frames: Float[np.ndarray, "n H W 3"], shifts: Int[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n H W 3"]:
  """Undo shifts: out[n, y, x] = frames[n, y + dy, x + dx]."""
  reach = max(1, int(np.abs(shifts).max(initial=0)))
  pad = [(0, 0), (reach, reach), (reach, reach), (0, 0)]
  padded = np.pad(frames, pad, mode="edge")
  height, width = frames.shape[1:3]
  return np.stack(
    [
      image[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
      for image, (dy, dx) in zip(padded, shifts, strict=True)
    ]
  )
