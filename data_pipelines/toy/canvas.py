"""Flat shapes with smooth edges: drawn a few times too large, then averaged."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from data_pipelines.toy.palette import Colour

Point = tuple[float, float]


class Canvas:
  """A picture of height x width pixels that shapes are drawn onto."""

  def __init__(self, height: int, width: int):
    short = min(height, width)
    self.height, self.width = height, width
    self.scale = 4 if short <= 96 else 3 if short <= 160 else 2
    self.image = Image.new("RGB", (width * self.scale, height * self.scale))
    self.draw = ImageDraw.Draw(self.image)

  def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture at its own size."""
    return np.asarray(self.image.reduce(self.scale))

  def pen(
    self,
    x: float,
    y: float,
    unit: float,
    *,
    tilt: float = 0.0,
    mirrored: bool = False,
  ) -> "Pen":
    """Return a pen whose origin is at x, y and whose lengths are `unit`s.

    Position and unit are in pixels, the tilt (clockwise) in radians; a
    mirrored pen draws left what it is told to draw right.
    """
    s = self.scale
    pen = Pen(self.draw, x * s, y * s, unit * s, tilt)
    if mirrored:
      pen.mirror()
    return pen


class Pen:
  """Draws in units of its own; discs move with the tilt but stay upright."""

  def __init__(
    self,
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    unit: float,
    tilt: float,
  ):
    self._draw = draw
    self._x, self._y = x, y
    self._cos, self._sin = unit * math.cos(tilt), unit * math.sin(tilt)
    self._right = 1.0
    self.unit = unit

  def mirror(self) -> None:
    """Exchange left and right."""
    self._right = -self._right

  def at(self, x: float, y: float) -> Point:
    """Return the canvas point of a point in units."""
    x *= self._right
    return (
      self._x + x * self._cos - y * self._sin,
      self._y + x * self._sin + y * self._cos,
    )

  def disc(
    self, x: float, y: float, rx: float, ry: float, colour: Colour
  ) -> None:
    """Fill an ellipse around x, y."""
    u, (px, py) = self.unit, self.at(x, y)
    rx, ry = abs(rx) * u, abs(ry) * u
    self._draw.ellipse((px - rx, py - ry, px + rx, py + ry), fill=colour)

  def shape(self, points: Sequence[Point], colour: Colour) -> None:
    """Fill a polygon."""
    self._draw.polygon([self.at(x, y) for x, y in points], fill=colour)

  def box(
    self, left: float, top: float, right: float, bottom: float, colour: Colour
  ) -> None:
    """Fill a rectangle, given by its sides."""
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    self.shape(corners, colour)

  def stroke(
    self, points: Sequence[Point], thickness: float, colour: Colour
  ) -> None:
    """Draw a line with round joints and ends."""
    line = [self.at(x, y) for x, y in points]
    width = max(1, round(thickness * self.unit))
    self._draw.line(line, fill=colour, width=width)
    r = width / 2
    for x, y in line:
      self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def blend(a: Colour, b: Colour, share: float) -> Colour:
  """Mix two colours: a where share is 0, b where it is 1."""
  r, g, b_ = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
  return r, g, b_
