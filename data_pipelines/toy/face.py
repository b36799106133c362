"""How a head looks: hair, face, eyes, brows, and the feeling they show."""

import dataclasses

from data_pipelines.toy.canvas import Pen, blend
from data_pipelines.toy.mouth import Mouth, draw_mouth
from data_pipelines.toy.palette import (
  EYES,
  HAIRS,
  INK,
  SKINS,
  Colour,
)


@dataclasses.dataclass(frozen=True)
class Look:
  """What stays the same about a character through a clip."""

  gender: str
  skin: str
  hair: str
  style: str
  eyes: str
  shirt: str
  emotion: str
  action: str


# A brow's height at its inner, middle and outer third, over the head's centre.
_BROWS = {
  "neutral": (0.42, 0.46, 0.40),
  "happy": (0.50, 0.61, 0.47),
  "sad": (0.62, 0.48, 0.32),
  "angry": (0.24, 0.38, 0.52),
  "surprised": (0.61, 0.73, 0.61),
}
_EYE_LEVEL = -0.09
# How far the eyes are open, and how large the iris is.
_EYES = {
  "neutral": (0.20, 0.105),
  "happy": (0.20, 0.115),
  "sad": (0.17, 0.105),
  "angry": (0.16, 0.095),
  "surprised": (0.26, 0.085),
}


def draw_back_hair(pen: Pen, look: Look) -> None:
  """Draw the hair that falls behind the shoulders."""
  colour = HAIRS[look.hair]
  if look.style == "long":
    pen.disc(0, -0.15, 0.98, 1.03, colour)
    pen.shape(_MANE, colour)
  elif look.style == "curly":
    for x, y in _CURLS:
      pen.disc(x, y, 0.34, 0.34, colour)
      pen.disc(-x, y, 0.34, 0.34, colour)
    pen.disc(0, -0.35, 0.9, 0.8, colour)


_MANE = (
  (-0.97, -0.1),
  (-1.06, 1.25),
  (-0.5, 1.5),
  (0.5, 1.5),
  (1.06, 1.25),
  (0.97, -0.1),
)
_CURLS = ((0.2, -1.02), (0.6, -0.86), (0.88, -0.5), (0.95, -0.08), (0.9, 0.28))


def draw_head(pen: Pen, look: Look, mouth: Mouth, blink: float) -> None:
  """Draw a head; blink is 0 for open eyes, 1 for closed ones."""
  skin = SKINS[look.skin]
  shade = blend(skin, (150, 40, 20), 0.16)
  jaw = 0.10 * mouth.opening
  for side in (-1, 1):
    pen.disc(0.82 * side, 0.05, 0.15, 0.2, skin)
    pen.disc(0.83 * side, 0.06, 0.08, 0.12, shade)
  pen.disc(0, -0.12, 0.82, 0.88, skin)
  pen.disc(0, 0.32 + jaw, 0.72, 0.68, skin)
  cheek = blend(skin, (255, 96, 80), 0.34 if look.emotion == "happy" else 0.16)
  for side in (-1, 1):
    pen.disc(0.54 * side, 0.27, 0.16, 0.12, cheek)
  for side in (-1, 1):
    _draw_eye(pen, look, side, blink)
  pen.disc(0, 0.17, 0.10, 0.075, shade)
  draw_mouth(pen, mouth, look.emotion)
  _draw_front_hair(pen, look)
  for side in (-1, 1):
    _draw_brow(pen, look, side)


def _draw_eye(pen: Pen, look: Look, side: int, blink: float) -> None:
  x, y = 0.33 * side, _EYE_LEVEL
  height, iris = _EYES[look.emotion]
  lid = [(x - 0.19, y), (x, y + 0.06), (x + 0.19, y)]
  if blink > 0.5:
    pen.stroke(lid, 0.06, INK)
    return
  pen.disc(x, y, 0.185, height, (255, 255, 255))
  gaze = 0.02 if look.emotion == "sad" else 0.0
  pen.disc(x - 0.02 * side, y + gaze, iris + 0.03, iris + 0.04, EYES[look.eyes])
  pen.disc(x - 0.02 * side, y + gaze, iris * 0.72, iris * 0.8, INK)
  pen.disc(x + 0.035, y - 0.06, 0.04, 0.04, (255, 255, 255))
  if look.gender == "woman":
    lash = (x + 0.17 * side, y - height * 0.5)
    pen.stroke([lash, (x + 0.28 * side, y - height * 0.95)], 0.055, INK)
  if look.emotion in ("sad", "angry"):
    _draw_upper_lid(pen, look, side, height)


def _draw_upper_lid(pen: Pen, look: Look, side: int, height: float) -> None:
  """Cover the upper outer (sad) or inner (angry) corner of an eye."""
  x, y, skin = 0.33 * side, _EYE_LEVEL, SKINS[look.skin]
  inner, outer = (0.55, -0.25) if look.emotion == "angry" else (-0.25, 0.45)
  low_in = y - height + 2 * height * max(inner, 0) * 0.8
  low_out = y - height + 2 * height * max(outer, 0) * 0.8
  near, far = x - 0.21 * side, x + 0.21 * side
  top = y - height - 0.06
  pen.shape([(near, top), (near, low_in), (far, low_out), (far, top)], skin)


def _draw_brow(pen: Pen, look: Look, side: int) -> None:
  inner, middle, outer = _BROWS[look.emotion]
  # A parabola through three points, in half-steps.
  bow = inner / 2 + outer / 2 - middle
  slope = (outer - inner) / 2
  brow = [
    ((0.34 + 0.21 * t) * side, -(middle + slope * t + bow * t * t))
    for t in (-1.0, -0.5, 0.0, 0.5, 1.0)
  ]
  pen.stroke(brow, 0.115, INK)


def _draw_front_hair(pen: Pen, look: Look) -> None:
  colour: Colour = HAIRS[look.hair]
  if look.style == "spiky":
    pen.shape(_SPIKES, colour)
  elif look.style == "curly":
    for x in (-0.5, -0.17, 0.17, 0.5):
      pen.disc(x, -0.99 + 0.4 * x * x, 0.26, 0.2, colour)
  else:
    pen.shape(_CAP, colour)
    drop = 0.5 if look.style == "long" else -0.15
    for side in (-1, 1):
      lock = [(0.70, -0.62), (0.90, -0.55), (0.93, drop), (0.80, drop)]
      pen.shape([(x * side, y) for x, y in lock], colour)


_CAP = (
  (-0.90, -0.40),
  (-0.86, -0.78),
  (-0.62, -1.04),
  (-0.25, -1.16),
  (0.25, -1.16),
  (0.62, -1.04),
  (0.86, -0.78),
  (0.90, -0.40),
  (0.76, -0.54),
  (0.58, -0.78),
  (0.20, -0.88),
  (-0.18, -0.96),
  (-0.52, -0.78),
  (-0.76, -0.54),
)
_SPIKES = (
  (-0.90, -0.20),
  (-1.02, -0.72),
  (-0.80, -0.74),
  (-0.84, -1.16),
  (-0.46, -1.00),
  (-0.36, -1.36),
  (-0.04, -1.08),
  (0.22, -1.40),
  (0.40, -1.02),
  (0.80, -1.18),
  (0.78, -0.76),
  (1.02, -0.72),
  (0.90, -0.20),
  (0.78, -0.54),
  (0.58, -0.78),
  (0.30, -0.84),
  (0.10, -0.96),
  (-0.15, -0.84),
  (-0.54, -0.80),
  (-0.78, -0.54),
)
