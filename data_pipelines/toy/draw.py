"""A frame of Cartoon Talkers, drawn from a description of the scene."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from data_pipelines.toy.backdrop import draw_backdrop
from data_pipelines.toy.body import draw_arm, draw_body
from data_pipelines.toy.canvas import Canvas
from data_pipelines.toy.face import Look, draw_back_hair, draw_head
from data_pipelines.toy.mouth import REST, Mouth
from data_pipelines.toy.palette import head_position


@dataclasses.dataclass(frozen=True)
class Pose:
  """What moves from frame to frame.

  x and y move the head and sway the body, in head units; tilt is clockwise,
  in radians; blink is 0 or 1; swing, from -1 to 1, moves the raised arm.
  """

  x: float = 0.0
  y: float = 0.0
  tilt: float = 0.0
  sway: float = 0.0
  blink: float = 0.0
  swing: float = 0.0
  mouth: Mouth = REST


@dataclasses.dataclass(frozen=True)
class Actor:
  """A character in its place: `side` is a key of palette.SIDES."""

  look: Look
  pose: Pose
  side: str


@dataclasses.dataclass(frozen=True)
class Camera:
  """Magnification, and what it looks at in shares of the shorter side."""

  zoom: float = 1.0
  x: float = 0.0


@dataclasses.dataclass(frozen=True)
class Picture:
  """All that a frame shows: `shot` is a key of palette.SHOTS."""

  shot: str
  backdrop: str
  actors: tuple[Actor, ...]
  camera: Camera


def draw(
  picture: Picture, height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
  """Draw one frame."""
  canvas = Canvas(height, width)
  camera, short = picture.camera, min(height, width)
  # What is far away moves half as much as what is near.
  far = 1 + (camera.zoom - 1) / 2
  pen = canvas.pen(width / 2 - camera.x * short / 2, height / 2, short * far)
  draw_backdrop(canvas, pen, picture.backdrop)
  for actor in picture.actors:
    _draw_actor(canvas, picture.shot, camera, actor)
  return canvas.pixels()


def _draw_actor(
  canvas: Canvas, shot: str, camera: Camera, actor: Actor
) -> None:
  short, look, pose = min(canvas.height, canvas.width), actor.look, actor.pose
  x, y, unit = head_position(shot, actor.side, canvas.height, canvas.width)
  middle_x, middle_y = canvas.width / 2, canvas.height / 2
  x = middle_x + (x - middle_x - camera.x * short) * camera.zoom
  y = middle_y + (y - middle_y) * camera.zoom
  unit *= camera.zoom
  x += pose.sway * unit
  # Who stands on the left raises the arm on that side, free of the other.
  body = canvas.pen(x, y, unit, mirrored=actor.side == "left")
  head = canvas.pen(x + pose.x * unit, y + pose.y * unit, unit, tilt=pose.tilt)
  draw_back_hair(head, look)
  draw_body(body, look)
  draw_head(head, look, pose.mouth, pose.blink)
  draw_arm(body, look, pose.swing)
