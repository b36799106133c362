import itertools

import numpy as np
import pytest

from data_pipelines.toy import palette
from data_pipelines.toy.draw import Actor, Camera, Picture, Pose, draw
from data_pipelines.toy.face import Look
from data_pipelines.toy.mouth import Mouth
from mocha_jax.evaluation import cartoon, templates
from mocha_jax.evaluation.cartoon import Place

STANDS = [
  ("close_up", "centre"),
  ("medium_close_up", "centre"),
  ("medium", "centre"),
  ("two_shot", "left"),
  ("two_shot", "right"),
]
LOOK = Look(
  gender="woman",
  skin="tan",
  hair="black",
  style="curly",
  eyes="teal",
  shirt="green",
  emotion="happy",
  action="rest",
)
OPENINGS = np.array([0, 0.2, 0.5, 1.0, 0.7, 0.3, 0.1, 0])


def film(look, stand, *, openings=OPENINGS, moves=(0.0, 0.0), zoom=1.0):
  """Draw a clip whose head moves by (x, y) head units to the end."""
  shot, side = stand
  frames = []
  for step, opening in zip(
    np.linspace(0, 1, len(openings)), openings, strict=True
  ):
    pose = Pose(
      x=moves[0] * step,
      y=moves[1] * step,
      swing=float(np.sin(9 * step)),
      mouth=Mouth(float(opening), 0.8, 0.0),
    )
    camera = Camera(zoom=1 + (zoom - 1) * step)
    picture = Picture(shot, "meadow", (Actor(look, pose, side),), camera)
    frames.append(draw(picture, 64, 64))
  return np.stack(frames)


def read(frames, stand, actions=palette.ACTIONS):
  place = Place(*stand, start=0, stop=len(frames))
  return cartoon.read(frames, place, actions=actions)


def looks(**changes):
  return Look(**{**LOOK.__dict__, **changes})


@pytest.mark.parametrize("stand", STANDS, ids=str)
def test_every_combination_of_skin_hair_and_shirt_is_told_apart(stand):
  combinations = list(
    itertools.product(palette.SKINS, palette.HAIRS, palette.SHIRTS)
  )
  for i, (skin, hair, shirt) in enumerate(combinations):
    if i % len(STANDS) != STANDS.index(stand):
      continue  # Every combination once, in one kind of shot.
    look = looks(skin=skin, hair=hair, shirt=shirt, style=palette.STYLES[i % 4])
    seen = read(film(look, stand, openings=OPENINGS[:3]), stand)
    assert (seen.skin, seen.hair, seen.shirt) == (skin, hair, shirt)


@pytest.mark.parametrize("stand", STANDS, ids=str)
@pytest.mark.parametrize("emotion", palette.EMOTIONS)
def test_emotion_is_read_off_the_brows_whatever_the_mouth_does(stand, emotion):
  look = looks(emotion=emotion, hair="blonde", style="spiky")
  assert read(film(look, stand), stand).emotion == emotion


@pytest.mark.parametrize("stand", STANDS, ids=str)
@pytest.mark.parametrize("action", palette.ACTIONS)
def test_action_is_read_off_the_arm(stand, action):
  assert read(film(looks(action=action), stand), stand).action == action


def test_nod_and_shake_are_read_off_the_head():
  swings = np.sin(np.linspace(0, 12, 24))

  def gesture(x, y):
    frames = []
    for s in swings:
      pose = Pose(x=x * s, y=y * s)
      actor = Actor(LOOK, pose, "centre")
      frames.append(draw(Picture("medium", "room", (actor,), Camera()), 64, 64))
    return read(
      np.stack(frames), ("medium", "centre"), palette.SILENT_ACTIONS
    ).action

  assert gesture(0, 0.13) == "nod"
  assert gesture(0.16, 0) == "shake"
  assert gesture(0.02, 0.02) == "rest"


@pytest.mark.parametrize("stand", STANDS, ids=str)
def test_measured_opening_follows_the_true_one_and_is_to_scale(stand):
  seen = read(film(LOOK, stand, moves=(0.06, -0.05), zoom=1.1), stand)
  assert np.corrcoef(seen.mouth, OPENINGS)[0, 1] > 0.98
  assert seen.mouth[OPENINGS == 0].max() < 0.06
  assert 0.8 < seen.mouth.max() < 1.3


@pytest.mark.parametrize("emotion", palette.EMOTIONS)
@pytest.mark.parametrize("shirt", ["purple", "blue"])
def test_shirt_and_lips_are_not_taken_for_a_mouth(emotion, shirt):
  for stand in STANDS:
    look = looks(emotion=emotion, shirt=shirt)
    shut = film(look, stand, openings=np.zeros(4))
    assert read(shut, stand).mouth.max() < 0.08


def test_opening_survives_a_shift_of_colours():
  stand = ("close_up", "centre")
  frames = film(LOOK, stand).astype(float)
  tinted = np.clip(frames * [0.92, 1.0, 0.95] + [6, -4, 3], 0, 255)
  seen = read(tinted.astype(np.uint8), stand)
  assert np.corrcoef(seen.mouth, OPENINGS)[0, 1] > 0.98
  assert (seen.skin, seen.shirt) == (LOOK.skin, LOOK.shirt)


def test_reading_one_place_ignores_what_stands_in_the_other():
  left, right = (Place("two_shot", s, 0, 8) for s in ("left", "right"))
  frames = film(LOOK, ("two_shot", "left"))
  alone = cartoon.read(frames, left, actions=palette.ACTIONS)
  spoiled = frames.copy()
  spoiled[:, :, 52:] = 90
  again = cartoon.read(spoiled, left, actions=palette.ACTIONS)
  np.testing.assert_allclose(again.mouth, alone.mouth, atol=0.02)
  nobody = cartoon.read(frames, right, actions=palette.ACTIONS)
  assert nobody.mouth.max() < 0.1


def test_place_outside_the_clip_is_refused():
  frames = np.zeros((8, 64, 64, 3), np.uint8)
  with pytest.raises(ValueError, match="clip of 8 frames"):
    cartoon.read(
      frames, Place("medium", "centre", 0, 9), actions=palette.ACTIONS
    )


def test_shift_is_found_exactly_and_undone():
  rng = np.random.default_rng(0)
  target = rng.random((20, 24, 3)).astype(np.float32)
  weight = np.zeros((20, 24), np.float32)
  weight[6:14, 6:18] = 1
  frames = np.stack([np.roll(target, (3, -2), (0, 1)), target])
  errors = templates.Search(frames, reach=4).errors(target, weight)
  shifts = templates.best_shift(errors)
  np.testing.assert_array_equal(shifts, [[3, -2], [0, 0]])
  assert errors.reshape(2, -1).min(1).max() < 1e-5
  undone = templates.shifted(frames, shifts)
  np.testing.assert_array_equal(undone[0, 6:14, 6:18], target[6:14, 6:18])
