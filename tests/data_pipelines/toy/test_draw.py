import dataclasses
import itertools

import numpy as np
import pytest

from data_pipelines.toy import palette
from data_pipelines.toy.draw import Actor, Camera, Picture, Pose, draw
from data_pipelines.toy.face import Look
from data_pipelines.toy.mouth import REST, Mouth

LOOK = Look("woman", "tan", "black", "long", "teal", "green", "happy", "rest")
WIDE = Mouth(opening=1.0, width=1.0, teeth=0.0)


def shown(look=LOOK, mouth=REST, shot="close_up", size=(64, 64), **pose):
  actor = Actor(look, Pose(mouth=mouth, **pose), "centre")
  return draw(Picture(shot, "room", (actor,), Camera()), *size)


def mouth_area(frame) -> int:
  """Count the pixels that have about the mouth's colour."""
  distance = np.linalg.norm(frame - np.array(palette.MOUTH, float), axis=-1)
  return int((distance < 60).sum())


def mouth_box(
  shot: str, side: str, height: int, width: int
) -> tuple[int, int, int, int]:
  """Return top, bottom, left, right, in pixels, of where a mouth can come.

  Room is left for the moves of head and camera.
  """
  x, y, unit = palette.head_position(shot, side, height, width)
  top = y + unit * (palette.MOUTH_CENTRE - 0.40)
  bottom = y + unit * (palette.MOUTH_CENTRE + palette.MOUTH_HEIGHT + 0.25)
  reach = unit * (palette.MOUTH_HALF_WIDTH + 0.30)
  return (
    max(0, round(top)),
    min(height, round(bottom)),
    max(0, round(x - reach)),
    min(width, round(x + reach)),
  )


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (48, 96), (128, 72)])
def test_frame_has_the_size_asked_for(size):
  assert shown(size=size).shape == (*size, 3)


def test_nothing_but_an_open_mouth_has_its_colour():
  for skin, hair, shirt in itertools.product(
    palette.SKINS, palette.HAIRS, palette.SHIRTS
  ):
    look = dataclasses.replace(LOOK, skin=skin, hair=hair, shirt=shirt)
    assert mouth_area(shown(look)) == 0
    assert mouth_area(shown(look, WIDE)) > 100


@pytest.mark.parametrize("shot", ["close_up", "medium_close_up", "medium"])
def test_area_of_the_mouth_follows_its_opening(shot):
  openings = np.linspace(0.1, 1, 10)
  areas = [
    mouth_area(shown(mouth=Mouth(float(o), 0.4 + 0.6 * o, 0.0), shot=shot))
    for o in openings
  ]
  assert np.corrcoef(openings, areas)[0, 1] > 0.97


@pytest.mark.parametrize("shot", ["close_up", "medium_close_up", "medium"])
@pytest.mark.parametrize("move", [-1, 1])
def test_mouth_stays_in_its_box(shot, move):
  frame = shown(mouth=WIDE, shot=shot, x=0.16 * move, y=0.13 * move)
  top, bottom, left, right = mouth_box(shot, "centre", 64, 64)
  inside = mouth_area(frame[top:bottom, left:right])
  assert inside == mouth_area(frame) > 0


def test_mouth_is_20_14_and_9_pixels_wide():
  for shot, width in (("close_up", 20), ("medium_close_up", 14), ("medium", 9)):
    frame = shown(mouth=WIDE, shot=shot)
    near = np.linalg.norm(frame - np.array(palette.MOUTH, float), axis=-1) < 90
    assert abs(int(near.any(0).sum()) - width) <= 2


@pytest.mark.parametrize("shot", ["close_up", "medium_close_up", "medium"])
def test_every_emotion_and_every_arm_is_seen(shot):
  for name, values in (
    ("emotion", palette.EMOTIONS),
    ("action", palette.ACTIONS),
  ):
    frames = [
      shown(dataclasses.replace(LOOK, **{name: v}), shot=shot).astype(int)
      for v in values
    ]
    for a, b in itertools.combinations(frames, 2):
      assert (np.abs(a - b).max(-1) > 60).sum() >= 8


def test_two_people_raise_their_outer_arms():
  look = dataclasses.replace(LOOK, action="raise")
  for side, half in (("left", slice(0, 16)), ("right", slice(48, 64))):
    pictures = [
      draw(
        Picture("two_shot", "room", (Actor(who, Pose(), side),), Camera()),
        64,
        64,
      ).astype(int)
      for who in (LOOK, look)
    ]
    changed = np.abs(pictures[0] - pictures[1]).max(-1) > 40
    assert changed[:40, half].sum() > 0.8 * changed[:40].sum() > 0
