"""How a character and the camera move: smooth curves of a few frequencies."""

import dataclasses
import math
import random

from data_pipelines.toy.draw import Camera, Pose
from data_pipelines.toy.visemes import Track

_BLINK_FRAMES = 3
# How far a zoom and a pan go, from the first to the last frame of a take.
_ZOOM, _PAN = 0.12, 0.10


@dataclasses.dataclass(frozen=True)
class Motion:
  """The random part of a character's motion: phases and the blinks' frames."""

  phases: tuple[float, ...]
  blinks: tuple[int, ...]


def sample(rng: random.Random, *, frames: int, fps: int) -> Motion:
  """Draw how a character moves; it blinks every two seconds or so."""
  phases = tuple(rng.uniform(0, 2 * math.pi) for _ in range(4))
  blinks, at = [], rng.randrange(2 * fps)
  while at < frames:
    blinks.append(at)
    at += fps + rng.randrange(2 * fps)
  return Motion(phases, tuple(blinks))


def pose(
  motion: Motion, action: str, track: Track, *, frame: int, fps: int
) -> Pose:
  """Return the pose of one frame."""
  t = 2 * math.pi * frame / fps
  a, b, c, d = motion.phases
  x = 0.035 * math.sin(0.35 * t + a)
  y = 0.025 * math.sin(0.50 * t + b)
  tilt = 0.035 * math.sin(0.30 * t + c)
  sway = 0.0
  if action == "nod":
    y += 0.13 * math.sin(1.5 * t + d)
  elif action == "shake":
    x += 0.16 * math.sin(1.3 * t + d)
  elif action == "dance":
    sway = 0.14 * math.sin(1.0 * t + d)
    tilt += 0.10 * math.sin(1.0 * t + d)
  blinking = any(0 <= frame - at < _BLINK_FRAMES for at in motion.blinks)
  return Pose(
    x=x,
    y=y,
    tilt=tilt,
    sway=sway,
    blink=float(blinking),
    swing=math.sin((1.0 if action == "dance" else 2.0) * t + d),
    mouth=track.mouth(frame),
  )


def camera(move: str, progress: float) -> Camera:
  """Return the camera where `progress`, 0 to 1, of a move is done."""
  middle = progress - 0.5
  if move == "zoom_in":
    return Camera(zoom=1 + _ZOOM * progress)
  if move == "zoom_out":
    return Camera(zoom=1 + _ZOOM * (1 - progress))
  if move == "pan_left":
    return Camera(x=-_PAN * middle)
  if move == "pan_right":
    return Camera(x=_PAN * middle)
  return Camera()
