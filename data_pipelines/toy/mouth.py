"""How a mouth looks: lips, dark interior and teeth, from four numbers.

The interior's area is proportional to the opening, whatever the width:

  area = pi/4 * (2 * MOUTH_HALF_WIDTH) * MOUTH_HEIGHT * opening     head units
"""

import dataclasses
import math

from data_pipelines.toy.canvas import Pen, Point
from data_pipelines.toy.palette import (
  INK,
  LIPS,
  MOUTH,
  MOUTH_CENTRE,
  MOUTH_HALF_WIDTH,
  MOUTH_HEIGHT,
  TEETH,
)

# How far the corners of a mouth at rest rise, in head units.
_CORNERS = {
  "neutral": 0.0,
  "happy": 0.17,
  "sad": -0.15,
  "angry": -0.07,
  "surprised": 0.0,
}
_STEPS = tuple(math.pi * i / 12 for i in range(13))
_LIP = 0.055
_CLOSED = 0.04


@dataclasses.dataclass(frozen=True)
class Mouth:
  """A mouth at one instant: opening, width and teeth between 0 and 1."""

  opening: float
  width: float
  teeth: float
  pressed: bool = False


REST = Mouth(opening=0.0, width=0.7, teeth=0.0)


def draw_mouth(pen: Pen, mouth: Mouth, emotion: str) -> None:
  """Draw a mouth with a pen that stands at the head's centre."""
  half = MOUTH_HALF_WIDTH * mouth.width
  interior = MOUTH_HEIGHT * mouth.opening / max(mouth.width, 0.2)
  teeth = 0.17 * mouth.teeth
  corners = _CORNERS[emotion]
  if interior + teeth < _CLOSED:
    _draw_closed(pen, half, corners, mouth.pressed)
    return
  bend = 0.35 * corners
  height = interior + teeth
  # The jaw drops: most of the opening goes downwards.
  top, bottom = MOUTH_CENTRE - 0.32 * height, MOUTH_CENTRE + 0.68 * height
  pen.shape(_outline(half + _LIP, top - _LIP, bottom + _LIP, bend), LIPS)
  pen.shape(_outline(half, top, bottom, bend), MOUTH)
  if teeth > 0.03:
    pen.shape(_upper(half, top, bottom, bend, teeth), TEETH)


def _draw_closed(pen: Pen, half: float, corners: float, pressed: bool) -> None:
  if pressed:
    corners, half = 0.4 * corners, 0.9 * half
  line = [
    (half * k, MOUTH_CENTRE + corners * (0.5 - k * k))
    for k in (-1.0, -0.66, -0.33, 0.0, 0.33, 0.66, 1.0)
  ]
  pen.stroke(line, 0.13 if pressed else 0.085, LIPS if pressed else INK)


def _outline(
  half: float, top: float, bottom: float, bend: float
) -> list[Point]:
  """Return an ellipse from the left corner along the top and back."""
  middle = MOUTH_CENTRE + 0.1 * (bottom - top)
  upper = [(-half * math.cos(a), math.sin(a) * (top - middle)) for a in _STEPS]
  lower = [
    (half * math.cos(a), math.sin(a) * (bottom - middle)) for a in _STEPS
  ]
  return [
    (x, middle + y - bend * ((x / half) ** 2 - 0.3)) for x, y in upper + lower
  ]


def _upper(
  half: float, top: float, bottom: float, bend: float, teeth: float
) -> list[Point]:
  """Return the upper row of teeth: the outline, cut at a level."""
  level = top + teeth
  points = _outline(half, top, bottom, bend)
  return [(x * 0.94, min(y, level)) for x, y in points]
