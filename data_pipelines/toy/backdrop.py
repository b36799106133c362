"""How the places behind the characters look: few colours, soft gradients."""

import functools

from PIL import Image

from data_pipelines.toy.canvas import Canvas, Pen
from data_pipelines.toy.palette import Colour

# The colours at the top and at the bottom of each place.
_GRADIENTS: dict[str, tuple[Colour, Colour]] = {
  "meadow": ((150, 208, 244), (222, 240, 232)),
  "beach": ((166, 224, 244), (240, 246, 240)),
  "room": ((244, 226, 206), (232, 206, 184)),
  "night": ((52, 58, 112), (110, 104, 158)),
  "wall": ((206, 222, 218), (178, 200, 198)),
}


def draw_backdrop(canvas: Canvas, pen: Pen, name: str) -> None:
  """Draw a place; the pen's unit is the picture's shorter side."""
  canvas.image.paste(_gradient(name, *canvas.image.size))
  _PROPS[name](pen)


@functools.lru_cache(maxsize=16)
def _gradient(name: str, width: int, height: int) -> Image.Image:
  top, bottom = _GRADIENTS[name]
  ramp = Image.new("RGB", (1, 2))
  ramp.putpixel((0, 0), top)
  ramp.putpixel((0, 1), bottom)
  return ramp.resize((width, height), Image.Resampling.BILINEAR)


def _meadow(pen: Pen) -> None:
  pen.disc(0.34, -0.36, 0.10, 0.10, (255, 236, 150))
  clouds = ((-0.40, -0.34, 0.09), (-0.30, -0.37, 0.1), (-0.2, -0.33, 0.08))
  for x, y, r in clouds:
    pen.disc(x, y, r, r * 0.6, (255, 255, 255))
  pen.disc(-0.7, 0.75, 1.0, 0.60, (150, 204, 120))
  pen.disc(0.8, 0.80, 1.1, 0.58, (126, 188, 104))


def _beach(pen: Pen) -> None:
  pen.disc(-0.34, -0.34, 0.11, 0.11, (255, 240, 170))
  pen.box(-4, 0.06, 4, 0.3, (92, 176, 216))
  pen.box(-4, 0.23, 4, 4, (240, 220, 168))
  pen.shape([(0.24, 0.06), (0.44, 0.06), (0.36, -0.22)], (255, 255, 255))
  hull = [(0.24, 0.04), (0.46, 0.04), (0.41, 0.09), (0.28, 0.09)]
  pen.shape(hull, (196, 122, 84))


def _room(pen: Pen) -> None:
  pen.box(-0.47, -0.42, -0.17, 0.0, (255, 255, 255))
  pen.box(-0.44, -0.39, -0.2, -0.03, (160, 212, 240))
  pen.box(-0.33, -0.4, -0.31, -0.02, (255, 255, 255))
  pen.box(-4, 0.32, 4, 4, (190, 150, 120))
  pen.box(0.38, 0.0, 0.40, 0.34, (140, 104, 84))
  shade = [(0.30, 0.0), (0.48, 0.0), (0.44, -0.16), (0.34, -0.16)]
  pen.shape(shade, (255, 226, 150))


def _night(pen: Pen) -> None:
  pen.disc(0.33, -0.34, 0.10, 0.10, (250, 244, 208))
  pen.disc(0.37, -0.37, 0.085, 0.085, (66, 70, 124))
  for x, y in ((-0.42, -0.40), (-0.25, -0.28), (-0.1, -0.45), (0.12, -0.33)):
    pen.disc(x, y, 0.012, 0.012, (255, 250, 220))
  for x, y, w in ((-0.46, 0.02, 0.13), (-0.30, 0.16, 0.12), (0.30, 0.1, 0.14)):
    pen.box(x - w / 2, y, x + w, 4, (58, 56, 98))
    for k in range(3):
      pen.disc(x + 0.03, y + 0.07 + 0.1 * k, 0.018, 0.018, (255, 220, 120))


def _wall(pen: Pen) -> None:
  for k in range(-9, 10, 2):
    pen.box(0.14 * k - 0.07, -4, 0.14 * k + 0.07, 4, (190, 212, 208))
  pen.box(-4, 0.36, 4, 4, (156, 178, 184))


_PROPS = {
  "meadow": _meadow,
  "beach": _beach,
  "room": _room,
  "night": _night,
  "wall": _wall,
}
