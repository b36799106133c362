"""Names, colours and places of Cartoon Talkers: what is drawn, said, measured.

The mouth's interior has a colour that nothing else in a picture comes near,
so that its area can be measured in any frame, real or generated.
"""

import dataclasses
from collections.abc import Mapping

Colour = tuple[int, int, int]

SKINS: Mapping[str, Colour] = {
  "pale": (255, 222, 196),
  "tan": (232, 176, 124),
  "brown": (178, 118, 76),
  "dark": (116, 76, 56),
}
HAIRS: Mapping[str, Colour] = {
  "black": (38, 34, 44),
  "brown": (112, 66, 34),
  "blonde": (246, 212, 108),
  "ginger": (220, 104, 30),
  "grey": (172, 174, 184),
}
SHIRTS: Mapping[str, Colour] = {
  "blue": (48, 96, 214),
  "green": (44, 150, 78),
  "yellow": (250, 204, 42),
  "purple": (132, 72, 190),
  "white": (246, 246, 248),
}
EYES: Mapping[str, Colour] = {
  "amber": (168, 104, 20),
  "teal": (20, 140, 140),
  "violet": (110, 70, 170),
}
STYLES = ("short", "spiky", "curly", "long")
GENDERS = ("man", "woman")

MOUTH: Colour = (212, 0, 84)
LIPS: Colour = (72, 20, 36)
TEETH: Colour = (255, 255, 255)
INK: Colour = (30, 22, 26)

EMOTIONS = ("neutral", "happy", "sad", "angry", "surprised")
# The arm's poses in any clip, and what only a clip without speech shows.
ACTIONS = ("rest", "wave", "raise", "point", "cup")
SILENT_ACTIONS = (*ACTIONS, "nod", "shake", "dance", "salute")
CUP: Colour = (32, 186, 196)

BACKDROPS = ("meadow", "beach", "room", "night", "wall")
CAMERAS = ("still", "zoom_in", "zoom_out", "pan_left", "pan_right")


@dataclasses.dataclass(frozen=True)
class Shot:
  """How large a character stands in the picture, and where.

  Lengths are shares of the picture's shorter side: `unit` is half the height
  of a head (a mouth, wide open, is 0.84 units wide), `head` the height of the
  head's centre below the picture's.
  """

  unit: float
  head: float


SHOTS: Mapping[str, Shot] = {
  "close_up": Shot(unit=0.36, head=-0.045),
  "medium_close_up": Shot(unit=0.27, head=-0.08),
  "medium": Shot(unit=0.18, head=-0.16),
  "two_shot": Shot(unit=0.18, head=-0.06),
}
# Where a character stands: the head's centre right of the picture's centre,
# as a share of the picture's width.
SIDES: Mapping[str, float] = {"centre": 0.0, "left": -0.25, "right": 0.25}

# The mouth in head units: its line when closed, and its reach when widest.
MOUTH_CENTRE = 0.47
MOUTH_HALF_WIDTH = 0.42
MOUTH_HEIGHT = 0.56


def head_position(
  shot: str, side: str, height: int, width: int
) -> tuple[float, float, float]:
  """Return x, y and unit, in pixels, of a head that holds still."""
  place = SHOTS[shot]
  short = min(height, width)
  x = width * (0.5 + SIDES[side])
  return x, height / 2 + short * place.head, short * place.unit
