"""How a body looks: shirt, neck, and the arm that shows the action."""

import math

from data_pipelines.toy.canvas import Pen, Point, blend
from data_pipelines.toy.face import Look
from data_pipelines.toy.palette import CUP, SHIRTS, SKINS, Colour

# Where the hand is for each action, in head units from the head's centre;
# actions of the head alone leave the arm at rest.
HANDS: dict[str, Point] = {
  "wave": (1.20, 0.05),
  "raise": (1.12, -0.72),
  "point": (1.14, 0.62),
  "cup": (0.98, 0.98),
  "dance": (1.14, 0.15),
  "salute": (0.80, -0.52),
}
_ELBOW = (1.42, 1.55)
_SHOULDER = (1.02, 1.52)
_RIM = 0.045
_TORSO = (
  (-0.8, 1.2),
  (0.8, 1.2),
  (1.25, 1.7),
  (1.2, 6.0),
  (-1.2, 6.0),
  (-1.25, 1.7),
)


def draw_body(pen: Pen, look: Look) -> None:
  """Draw neck and shirt with a pen that stands at the head's centre."""
  shirt, skin = SHIRTS[look.shirt], SKINS[look.skin]
  fold = blend(shirt, (20, 20, 40), 0.22)
  pen.shape(_TORSO, shirt)
  for side in (-1, 1):
    pen.disc(0.85 * side, 1.55, 0.42, 0.36, shirt)
    pen.stroke([(0.92 * side, 2.3), (0.95 * side, 6.0)], 0.07, fold)
  pen.disc(0, 1.22, 0.46, 0.30, fold)
  throat = blend(skin, (110, 40, 30), 0.22)
  pen.disc(0, 1.16, 0.38, 0.26, throat)
  pen.box(-0.3, 0.7, 0.3, 1.2, throat)
  if look.action not in HANDS:
    pen.stroke([(1.12, 1.6), (1.25, 3.4)], 0.42, shirt)
    pen.disc(1.25, 3.6, 0.22, 0.25, skin)
  pen.stroke([(-1.12, 1.6), (-1.25, 3.4)], 0.42, shirt)
  pen.disc(-1.25, 3.6, 0.22, 0.25, skin)


def draw_arm(pen: Pen, look: Look, swing: float) -> None:
  """Draw the raised arm over body and head; swing runs from -1 to 1."""
  if look.action not in HANDS:
    return
  shirt, skin = SHIRTS[look.shirt], SKINS[look.skin]
  x, y = HANDS[look.action]
  if look.action in ("wave", "dance"):
    x += 0.17 * swing
    y += 0.10 * abs(swing)
  if look.action == "dance":
    y += 0.25 * swing
  sleeve = blend(shirt, (20, 20, 40), 0.10)
  bend = ((x + 2 * _ELBOW[0]) / 3, (y + 2 * _ELBOW[1]) / 3)
  # A rim in a darker tone parts the hand from a face of the same colour.
  rim = blend(skin, (90, 30, 20), 0.35)
  hand = _HAND_SHAPES[look.action]
  pen.stroke([_ELBOW, (x, y)], 0.26 + 2 * _RIM, rim)
  hand(pen, x, y, rim, _RIM)
  pen.stroke([_ELBOW, (x, y)], 0.26, skin)
  pen.stroke([_SHOULDER, _ELBOW, bend], 0.44, sleeve)
  hand(pen, x, y, skin, 0.0)


def _open_hand(
  pen: Pen, x: float, y: float, colour: Colour, rim: float
) -> None:
  for angle in (-0.80, -0.14, 0.52):
    tip = (x + 0.42 * math.sin(angle), y - 0.42 * math.cos(angle))
    pen.stroke([(x, y), tip], 0.125 + 2 * rim, colour)
  pen.stroke([(x, y), (x - 0.34, y + 0.08)], 0.125 + 2 * rim, colour)
  pen.disc(x, y, 0.21 + rim, 0.22 + rim, colour)


def _pointing_hand(
  pen: Pen, x: float, y: float, colour: Colour, rim: float
) -> None:
  finger = [(x - 0.05, y), (x - 0.05, y - 0.62)]
  pen.stroke(finger, 0.17 + 2 * rim, colour)
  pen.disc(x, y, 0.25 + rim, 0.24 + rim, colour)
  if rim:
    return
  shade = blend(colour, (110, 40, 30), 0.3)
  for k in range(3):
    knuckle = y - 0.08 + 0.11 * k
    pen.stroke([(x - 0.2, knuckle), (x - 0.03, knuckle)], 0.035, shade)


def _fist_with_cup(
  pen: Pen, x: float, y: float, colour: Colour, rim: float
) -> None:
  if not rim:
    pen.box(x - 0.28, y - 0.38, x + 0.24, y + 0.3, CUP)
    pen.disc(x - 0.02, y - 0.38, 0.28, 0.08, blend(CUP, (0, 0, 40), 0.3))
  pen.disc(x + 0.10, y + 0.02, 0.22 + rim, 0.20 + rim, colour)


def _flat_hand(
  pen: Pen, x: float, y: float, colour: Colour, rim: float
) -> None:
  palm = [(x + 0.18, y + 0.16), (x - 0.34, y - 0.16)]
  pen.stroke(palm, 0.22 + 2 * rim, colour)
  pen.disc(x + 0.08, y + 0.08, 0.19 + rim, 0.17 + rim, colour)


_HAND_SHAPES = {
  "wave": _open_hand,
  "raise": _open_hand,
  "dance": _open_hand,
  "point": _pointing_hand,
  "cup": _fist_with_cup,
  "salute": _flat_hand,
}
