"""Real media files for tests: a flash and a click at the same moment."""

import dataclasses
import os
import pathlib
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

# The folder with real clips that some tests need.
REAL = os.environ.get("MOCHA_REAL_CLIPS", "")
needs_real_clips = pytest.mark.skipif(
  not REAL, reason="MOCHA_REAL_CLIPS names no folder of real clips"
)


@dataclasses.dataclass(frozen=True)
class Media:
  """What a file holds; the flash and the click come with picture `flash`."""

  codec: str = "libx264"
  fps: Fraction = Fraction(24)
  frames: int = 60
  size: tuple[int, int] = (96, 128)
  flash: int = 45
  sound: str | None = "aac"
  rate: int = 48_000
  layout: str = "stereo"
  level: float = 0.003  # Of the noise around the click; 0: silence, no click.
  video_start: Fraction = Fraction(0)
  sound_start: Fraction = Fraction(0)
  stamps: tuple[int, ...] | None = None  # In steps of 1 / fps.

  @property
  def click(self) -> float:
    """The moment of the click in seconds after the first picture."""
    return float(self.flash / self.fps)


# Containers, picture codecs, rates, sound codecs, rates and layouts.
KINDS = {
  "h264.mp4": Media(),
  "h264.mov": Media(
    fps=Fraction(30_000, 1001), sound="pcm_s16le", rate=44_100, layout="mono"
  ),
  "hevc.mp4": Media("libx265", Fraction(25), rate=44_100, layout="mono"),
  "mpeg1.mpg": Media("mpeg1video", Fraction(25), sound="mp2", rate=44_100),
  "mpeg2.mpg": Media(
    "mpeg2video", Fraction(30_000, 1001), sound="mp2", layout="mono"
  ),
  "mpeg4.mp4": Media("mpeg4", Fraction(30), rate=44_100),
  "mpeg4.mov": Media("mpeg4", Fraction(24), rate=32_000, layout="mono"),
}


def pictures(media: Media) -> np.ndarray:
  """Return waves that move, and one white picture."""
  height, width = media.size
  t, y, x = np.ogrid[: media.frames, :height, :width]
  waves = [x / 20 + t / 3 + 0 * y, y / 15 - t / 5 + 0 * x, (x + y) / 30 + t / 9]
  frames = 100 + 90 * np.sin(np.stack(waves, -1))
  if 0 <= media.flash < media.frames:
    frames[media.flash] = 255
  return frames.astype(np.uint8)


def click(media: Media, rate: int, seconds: float | None = None) -> np.ndarray:
  """Return quiet noise with one click, as samples from the first picture on."""
  seconds = float(media.frames / media.fps) if seconds is None else seconds
  rng = np.random.default_rng(0)
  sound = rng.normal(size=round(seconds * rate)) * media.level
  if media.level:
    t = np.arange(round(0.01 * rate)) / rate
    ring = 0.8 * np.cos(2 * np.pi * 1000 * t) * np.exp(-800 * t)
    at = round(media.click * rate)
    sound[at : at + len(ring)] += ring[: max(0, len(sound) - at)]
  return sound.astype(np.float32)


def write(path: pathlib.Path, media: Media) -> pathlib.Path:
  """Write a media file with PyAV."""
  # mp4 and mov: the moments at which streams start, to 1 / 48,000 s.
  exact = {"movie_timescale": "48000"} if path.suffix != ".mpg" else {}
  with av.open(str(path), "w", options=exact) as container:
    video: Any = container.add_stream(media.codec, rate=media.fps)
    video.height, video.width = media.size
    video.pix_fmt = "yuv420p"
    if media.codec == "libx265":
      video.options = {"x265-params": "log-level=none"}
    if media.sound:
      _mux_sound(container, media)
    stamps = media.stamps or range(media.frames)
    start = round(media.video_start * media.fps)
    for stamp, pixels in zip(stamps, pictures(media), strict=True):
      frame = av.VideoFrame.from_ndarray(pixels)
      frame.pts, frame.time_base = start + stamp, 1 / media.fps
      container.mux(video.encode(frame))
    container.mux(video.encode(None))
  return path


def _mux_sound(container, media: Media) -> None:
  stream = container.add_stream(media.sound, rate=media.rate)
  stream.layout = media.layout
  seconds = float(media.frames / media.fps)
  late = float(media.sound_start - media.video_start)
  sound = click(media, media.rate, seconds)[max(0, round(late * media.rate)) :]
  sound = np.pad(sound, (max(0, -round(late * media.rate)), 0))
  channels = 2 if media.layout == "stereo" else 1
  frame = av.AudioFrame.from_ndarray(
    np.repeat(sound[None], channels, 0), format="fltp", layout=media.layout
  )
  frame.sample_rate = media.rate
  frame.pts = round(media.sound_start * media.rate)
  frame.time_base = Fraction(1, media.rate)
  resampler = av.AudioResampler(
    format=stream.codec_context.codec.audio_formats[0],
    layout=media.layout,
    rate=media.rate,
    frame_size=stream.codec_context.frame_size or 1024,
  )
  for piece in [*resampler.resample(frame), *resampler.resample(None)]:
    container.mux(stream.encode(piece))
  container.mux(stream.encode(None))
