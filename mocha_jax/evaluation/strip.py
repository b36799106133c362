"""Strips of frames, so that a clip can be looked at in a still picture."""

import os
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8


def strip(
  clips: Sequence[UInt8[np.ndarray, "F H W 3"]], columns: int, *, gap: int = 2
) -> UInt8[np.ndarray, "h w 3"]:
  """Lay `columns` frames of each clip in a row, evenly spaced in time.

  One row per clip, `gap` white pixels between; the clips are of one size.
  """
  if not clips or columns < 1:
    raise ValueError(f"{len(clips)} clips, {columns=}: both must be at least 1")
  height, width = clips[0].shape[1:3]
  rows = np.full(
    (
      len(clips) * (height + gap) - gap,
      columns * (width + gap) - gap,
      3,
    ),
    255,
    np.uint8,
  )
  for row, frames in enumerate(clips):
    picked = np.linspace(0, len(frames) - 1, columns).round().astype(int)
    for column, index in enumerate(picked):
      top, left = row * (height + gap), column * (width + gap)
      rows[top : top + height, left : left + width] = frames[index]
  return rows


def enlarge(
  pixels: UInt8[np.ndarray, "... H W 3"], factor: int
) -> UInt8[np.ndarray, "... H2 W2 3"]:
  """Repeat every pixel `factor` times both ways."""
  return pixels.repeat(factor, axis=-3).repeat(factor, axis=-2)


def write_png(
  path: str | os.PathLike[str], image: UInt8[np.ndarray, "H W 3"]
) -> None:
  """Write an RGB image as PNG."""
  height, width, _ = image.shape
  rows = np.zeros((height, 1 + 3 * width), np.uint8)  # Filter 0, then pixels.
  rows[:, 1:] = image.reshape(height, -1)
  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  with open(path, "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n")
    file.write(_chunk(b"IHDR", header))
    file.write(_chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)))
    file.write(_chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
  check = zlib.crc32(kind + data)
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
