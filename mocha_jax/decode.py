"""From a file's packets to arrays: what counts as broken, what is when.

Pictures and sounds are placed by their time stamps alone. A file is broken if
a packet cannot be decoded, if pictures are missing that its index or its
packets promise, or if its time stamps run backwards.
"""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import av
import av.container
import av.error
import numpy as np
from jaxtyping import Float, UInt8

Path = str | os.PathLike[str]
Rate = int | float | Fraction  # Per second.

# A picture that appears just in the middle of an interval, give or take so
# many seconds, is too late for it: rounded stamps must not decide.
_TIE = Fraction(1, 1000)
# Frames of sound are laid end to end; only a stamp that is off by more than
# this many seconds is a real gap or overlap (Matroska rounds to 1 ms).
_GAP = 0.005

# A gap as long as this share of a frame of sound: a frame was lost.
_LOST = 0.75
# The outermost parts of an mp4 or mov.
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide")
_BOXES += (b"uuid", b"meta", b"mfra", b"sidx", b"styp", b"pnot", b"udta")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
  """Open a file to read; all that is wrong with it is a ValueError naming it.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It cannot be read; also each ValueError of the `with` block,
      with the path put before it.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f"{path}: no such file")
  try:
    with av.open(str(path)) as container:
      if "mp4" in container.format.name:
        _check_boxes(path)
      yield container
  except av.error.FFmpegError as error:
    raise ValueError(f"{path}: broken: {error.strerror}") from error
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def decode(
  container: av.container.InputContainer,
  sinks: Mapping[av.VideoStream | av.AudioStream, "Pictures | Sounds"],
) -> None:
  """Hand every picture or frame of sound of a stream to its sink.

  Raises:
    av.error.FFmpegError: A packet cannot be decoded.
    ValueError: Something that the file promises is missing.
  """
  counts = {stream: _Count(stream) for stream in sinks}
  for stream in sinks:
    if stream.codec_context is None:
      raise ValueError(f"broken: its {stream.type} is of no known kind")
    stream.codec_context.options = {"err_detect": "explode"}
    stream.codec_context.thread_type = "AUTO"
  for packet in container.demux(*sinks):
    stream: Any = packet.stream  # Of `sinks`: no subtitles.
    frames: Any = packet.decode()
    counts[stream].packet(packet)
    for frame in frames:
      counts[stream].frame(frame)
      sinks[stream].add(frame)
  for count in counts.values():
    count.check()


def _check_boxes(path: Path) -> None:
  """Refuse an mp4 or mov whose outermost boxes reach beyond its end."""
  start, end = 0, os.path.getsize(path)
  with open(path, "rb") as file:
    while start < end:
      file.seek(start)
      header = file.read(16)
      size, kind = int.from_bytes(header[:4], "big"), header[4:8]
      if size == 1:  # The true size follows.
        size = int.from_bytes(header[8:], "big")
      if size == 0 or kind not in _BOXES:  # To the end; or junk behind it.
        return
      start += size
  if start > end:
    raise ValueError(f"broken: cut short: {end} of {start} bytes")


class _Count:
  """Compares what a stream promises with what comes out of it."""

  def __init__(self, stream):
    self._stream = stream
    self._stamps: list[int | None] = []
    self._packets = self._frames = 0
    self._start = None

  def packet(self, packet: av.Packet):
    if packet.is_corrupt:
      raise ValueError(f"broken: cut short within {self._what} {self._packets}")
    if packet.size:
      self._packets += 1
      if not packet.is_discard:
        self._stamps.append(packet.pts)

  def frame(self, frame: av.VideoFrame | av.AudioFrame):
    if frame.is_corrupt:
      raise ValueError(f"broken: {self._what} {self._frames} is damaged")
    if self._start is None:
      self._start = frame.pts
    self._frames += 1

  def check(self):
    promised = self._promised()
    if self._packets < promised:
      raise ValueError(
        f"broken: {promised} {self._what}s promised, {self._packets} found"
      )
    if self._stream.type == "video":
      # Pictures before the first key picture's, of a file cut out of a longer
      # one, are no loss.
      due = sum(
        stamp is None or self._start is None or stamp >= self._start
        for stamp in self._stamps
      )
      if self._frames < due:
        raise ValueError(
          f"broken: {due} pictures stored, {self._frames} can be decoded"
        )

  def _promised(self) -> int:
    """Return how many packets the file's index lists; other formats: 0."""
    if "mp4" not in self._stream.container.format.name:
      return 0
    return len(self._stream.index_entries)

  @property
  def _what(self) -> str:
    return "picture" if self._stream.type == "video" else "frame of sound"


class Pictures:
  """Takes decoded pictures in order; keeps what a viewer sees at `fps`.

  Kept picture k is the one on screen in the middle of [k, k + 1) / fps after
  the first. `fps`, `size` and `limit` are those of `media.read_video`.
  """

  def __init__(
    self,
    stream: av.VideoStream,
    fps: Rate | None,
    size: tuple[int, int] | None,
    limit: int | None,
  ):
    self.start = Fraction(0)  # Seconds: when the first picture appears.
    self._stream = stream
    self._fps = None if fps is None else Fraction(fps)
    self._size = size
    self._limit = sys.maxsize if limit is None else limit
    self._kept: list[np.ndarray] = []
    self._last: av.VideoFrame | None = None
    self._seen, self._time = 0, Fraction(0)

  def add(self, frame: av.VideoFrame) -> None:
    """Take the next picture in order of time."""
    time = _time(frame)
    if time is None:
      time = self._time + (self._step() if self._seen else 0)
    if not self._seen:
      self.start = time
    elif time <= self._time:
      raise ValueError(
        f"broken: picture {self._seen} is stamped {float(time):.3f} s, not "
        f"after the {float(self._time):.3f} s of the one before"
      )
    else:
      self._keep_until(time + _TIE)
    self._last, self._time = frame, time
    self._seen += 1

  def finish(self) -> tuple[UInt8[np.ndarray, "F H W 3"], float]:
    """Return the pictures kept, and how many there are per second."""
    if not self._seen:
      raise ValueError("broken: no picture can be decoded")
    length = self._time - self.start + self._step()
    if self._fps is None:
      self._keep(1)
    else:
      self._keep(max(1, round(length * self._fps)) - len(self._kept))
    return np.stack(self._kept), float(self._fps or self._seen / length)

  def _step(self) -> Fraction:
    """Return the seconds that a picture lasts, on average."""
    if self._seen > 1:
      return (self._time - self.start) / (self._seen - 1)
    return 1 / (self._stream.average_rate or Fraction(24))

  def _keep_until(self, time: Fraction) -> None:
    if self._fps is None:
      self._keep(1)
    else:
      shown = (time - self.start) * self._fps - Fraction(1, 2)
      self._keep(math.ceil(shown) - len(self._kept))

  def _keep(self, times: int) -> None:
    """Keep the last picture so many times more."""
    times = min(times, self._limit - len(self._kept))
    if self._last is not None and times > 0:
      ratio = self._stream.sample_aspect_ratio or Fraction(1)
      # PyAV 19 has a type of its own for fractions, PyAV 18 has not.
      aspect = Fraction(ratio.numerator, ratio.denominator)
      self._kept += [_pixels(self._last, self._size, aspect)] * times


class Sounds:
  """Takes decoded frames of sound; lays them out by their time stamps."""

  def __init__(self):
    self._pieces: list[tuple[Fraction | None, np.ndarray]] = []
    self._rate = 0

  def add(self, frame: av.AudioFrame) -> None:
    """Take the next frame of sound."""
    if self._rate not in (0, frame.sample_rate):
      raise ValueError(
        f"broken: the sound changes from {self._rate} to "
        f"{frame.sample_rate} samples per second"
      )
    self._rate = frame.sample_rate
    self._pieces.append((_time(frame), _mono(frame)))

  def finish(
    self, start: Fraction | None
  ) -> tuple[Float[np.ndarray, "A"], int] | None:
    """Return the sound from `start` on, and its rate; None without any.

    `start` is in seconds; None starts with the first sample.
    """
    if not self._pieces:
      return None
    if start is None:
      start = self._pieces[0][0] or Fraction(0)
    placed, end = [], 0
    for time, piece in self._pieces:
      at = end if time is None else round((time - start) * self._rate)
      if placed and abs(at - end) <= _GAP * self._rate:
        at = end
      elif placed and at - end >= _LOST * len(piece):
        raise ValueError(
          f"broken: {(at - end) / self._rate:.3f} s of sound are missing "
          f"{end / self._rate:.3f} s after the first picture"
        )
      placed.append((at, piece))
      end = at + len(piece)
    sound = np.zeros(max(0, *(at + len(piece) for at, piece in placed)))
    for at, piece in placed:
      piece = piece[max(0, -at) :]
      sound[max(0, at) : max(0, at) + len(piece)] = piece
    return sound.astype(np.float32), self._rate


def _time(frame: av.VideoFrame | av.AudioFrame) -> Fraction | None:
  if frame.pts is None or frame.time_base is None:
    return None
  return frame.pts * frame.time_base


def _mono(frame: av.AudioFrame) -> np.ndarray:
  samples = frame.to_ndarray()
  if not frame.format.is_planar:
    samples = samples.reshape(-1, frame.layout.nb_channels).T
  mono = samples.mean(0)
  if samples.dtype == np.uint8:
    return mono / 128 - 1
  if samples.dtype.kind == "i":
    return mono / 2.0 ** (8 * samples.dtype.itemsize - 1)
  return mono


def _pixels(
  frame: av.VideoFrame, size: tuple[int, int] | None, aspect: Fraction
) -> UInt8[np.ndarray, "H W 3"]:
  """Turn upright; scale until `size` is covered; cut around the centre.

  `aspect` is the width of a stored pixel over its height.
  """
  turns = round(frame.rotation / 90) % 4
  if size is None:
    return np.rot90(frame.to_ndarray(format="rgb24"), turns)
  height, width = size[::-1] if turns % 2 else size
  shown = frame.width * aspect
  scale = max(height / frame.height, width / shown)
  pixels = frame.reformat(
    max(width, round(shown * scale)),
    max(height, round(frame.height * scale)),
    format="rgb24",
    interpolation="BICUBIC",
  ).to_ndarray()
  top = (pixels.shape[0] - height) // 2
  left = (pixels.shape[1] - width) // 2
  return np.rot90(pixels[top : top + height, left : left + width], turns)
