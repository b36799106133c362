"""Pictures and sound: how files become arrays and arrays become files.

Time stamps decide everything. Sample 0 of a sound that is read with its
pictures is the moment at which the first of them appears, and picture k is
what a viewer sees in the middle of the interval [k, k + 1) / fps.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import soundfile
import soxr
from jaxtyping import Float, UInt8

Path = str | os.PathLike[str]

# A picture counts as seen in the middle of an interval if it appears no more
# than this many seconds later: rounded stamps must not decide a tie.
_TIE = 0.001
# Frames of sound are laid end to end; only a stamp that is off by more than
# this many seconds is a real gap or overlap (Matroska rounds to 1 ms).
_GAP = 0.005
_AAC_RATES = (7_350, 8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000)
_AAC_RATES += (44_100, 48_000, 64_000, 88_200, 96_000)


@dataclasses.dataclass(frozen=True)
class ClipFormat:
  """What a clip is: pictures, their size, and sound samples per second."""

  frames: int
  fps: int
  height: int
  width: int
  sample_rate: int

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value < 1:
        raise ValueError(f"clip.{field.name}={value} must be at least 1")
    if self.sample_rate < self.fps:
      raise ValueError(
        f"clip.sample_rate={self.sample_rate} must be at least "
        f"clip.fps={self.fps}: every picture needs a sample"
      )

  @property
  def samples(self) -> int:
    """Samples of sound that last as long as the pictures."""
    return round(self.frames * self.sample_rate / self.fps)


@dataclasses.dataclass(frozen=True)
class Video:
  """Pictures and the sound that starts with them; None: the file has none."""

  frames: UInt8[np.ndarray, "F H W 3"]
  fps: float
  sound: Float[np.ndarray, "A"] | None
  sample_rate: int


def read_video(
  path: Path,
  *,
  fps: float | None = None,
  size: tuple[int, int] | None = None,
  sample_rate: int | None = None,
  max_frames: int | None = None,
) -> Video:
  """Read pictures and sound, aligned by their time stamps.

  The sound is mono and as long as the pictures: cut, or silent at the end.

  Args:
    fps: Pictures per second wanted; None takes every picture of the file.
    size: (height, width) wanted: scaled until covered, then cut around the
      centre. None keeps the file's own.
    sample_rate: Samples per second wanted; None keeps the file's own.
    max_frames: Keep no more pictures; what follows is checked all the same.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is no video, or broken: cut short, or not decodable.
  """
  with _opened(path) as container:
    if not container.streams.video:
      raise ValueError(f"{path}: has no pictures")
    pictures = _Pictures(container.streams.video[0], fps, size, max_frames)
    sounds = _Sounds()
    for packet in _packets(container):
      for frame in packet.decode():
        (pictures if packet.stream.type == "video" else sounds).add(frame)
    frames, rate = pictures.finish()
    sound, sound_rate = sounds.join(pictures.start)
  sample_rate = sample_rate or sound_rate
  if sound is not None:
    sound = _resampled(sound, sound_rate, sample_rate)
    sound = fit(sound, round(len(frames) * sample_rate / rate))
  return Video(frames, rate, sound, sample_rate)


def read_sound(path: Path, sample_rate: int) -> Float[np.ndarray, "A"]:
  """Read a sound file, or the sound of a video, as mono samples.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is no sound file, is cut short, holds no sample, or a
      sample that is not finite.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file")
  try:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    _check_wav_length(path)
    sound = samples.mean(1)
  except soundfile.LibsndfileError:
    sound, rate = _container_sound(path)
  if not len(sound):
    raise ValueError(f"{path}: holds no sound")
  if not np.isfinite(sound).all():
    raise ValueError(f"{path}: holds samples that are not finite numbers")
  return _resampled(sound, rate, sample_rate)


def write_video(
  path: Path,
  frames: UInt8[np.ndarray, "F H W 3"],
  fps: float,
  sound: Float[np.ndarray, "A"] | None,
  sample_rate: int,
) -> None:
  """Write an mp4, H.264 and AAC, sound and pictures starting together.

  An odd height or width grows by one repeated row or column, which H.264 with
  halved colour needs. The file appears when it is whole, never half-written.
  """
  if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
    raise ValueError(f"{frames.shape=} must be [F, H, W, 3] with F >= 1")
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
  try:
    with av.open(
      str(temporary), "w", options={"movflags": "+faststart"}
    ) as container:
      pictures = _picture_stream(container, frames, fps)
      if sound is not None:
        _encode_sound(container, sound, sample_rate)
      _encode_pictures(container, pictures, frames)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def fit(sound: Float[np.ndarray, "A"], samples: int) -> np.ndarray:
  """Cut a sound to so many samples, or fill it up with silence."""
  return np.pad(sound[:samples], (0, max(0, samples - len(sound))))


def measure_lag(
  sound: Float[np.ndarray, "A"],
  reference: Float[np.ndarray, "R"],
) -> int:
  """Return by how many samples `sound` runs behind `reference`.

  argmax_k sum_t sound[t + k] reference[t]
  """
  size = 1 << (len(sound) + len(reference) - 1).bit_length()
  spectrum = np.fft.rfft(sound, size) * np.conj(np.fft.rfft(reference, size))
  lag = int(np.argmax(np.fft.irfft(spectrum, size)))
  return lag - size if lag >= len(sound) else lag


class _Pictures:
  """Takes decoded pictures in order; keeps what a viewer sees at `fps`."""

  def __init__(self, stream, fps, size, max_frames):
    self.start = Fraction(0)
    self._stream, self._fps, self._size = stream, fps, size
    self._limit = math.inf if max_frames is None else max_frames
    self._kept: list[np.ndarray] = []
    self._last: av.VideoFrame | None = None
    self._seen, self._time = 0, Fraction(0)

  def add(self, frame: av.VideoFrame):
    time = self._stamp(frame)
    if self._last is None:
      self.start = time
    elif time <= self._time:
      raise ValueError(
        f"broken: picture {self._seen} has the time stamp {float(time):.3f} s, "
        f"not after {float(self._time):.3f} s of the picture before"
      )
    elif self._fps is None:
      self._keep(1)
    else:
      elapsed = float(time - self.start) - _TIE
      self._keep(math.ceil(elapsed * self._fps - 0.5) - len(self._kept))
    self._last, self._time = frame, time
    self._seen += 1

  def finish(self) -> tuple[np.ndarray, float]:
    """Return the pictures and their rate."""
    if self._last is None:
      raise ValueError("broken: no picture can be decoded")
    length = float(self._time - self.start) + self._duration()
    if self._fps is None:
      self._keep(1)
    else:
      self._keep(round(length * self._fps) - len(self._kept))
    if not self._kept:
      raise ValueError(
        f"too short: {length:.3f} s hold no picture at {self._fps} fps"
      )
    return np.stack(self._kept), self._fps or self._seen / length

  def _stamp(self, frame) -> Fraction:
    if frame.pts is not None:
      return frame.pts * frame.time_base
    return self._time + Fraction(self._duration())

  def _duration(self) -> float:
    frame, rate = self._last, self._stream.average_rate
    if self._seen > 1:
      return float(self._time - self.start) / (self._seen - 1)
    if frame is not None and frame.duration:
      return float(frame.duration * frame.time_base)
    return 1 / float(rate or 24)

  def _keep(self, times: int):
    """Keep the last picture so many times more."""
    times = min(times, self._limit - len(self._kept))
    if times > 0:
      self._kept += [self._pixels(self._last)] * int(times)

  def _pixels(self, frame) -> np.ndarray:
    turns = round(frame.rotation / 90) % 4
    height, width = self._size or (None, None)
    if self._size is None:
      return np.rot90(frame.to_ndarray(format="rgb24"), turns)
    if turns % 2:
      height, width = width, height
    aspect = self._stream.sample_aspect_ratio or 1
    shown = float(frame.width * aspect)
    scale = max(height / frame.height, width / shown)
    scaled = frame.reformat(
      max(width, round(shown * scale)),
      max(height, round(frame.height * scale)),
      format="rgb24",
      interpolation="BICUBIC",
    ).to_ndarray()
    top = (scaled.shape[0] - height) // 2
    left = (scaled.shape[1] - width) // 2
    cut = scaled[top : top + height, left : left + width]
    return np.ascontiguousarray(np.rot90(cut, turns))


class _Sounds:
  """Takes decoded frames of sound; lays them out by their time stamps."""

  def __init__(self):
    self._pieces: list[tuple[Fraction | None, np.ndarray]] = []
    self._rate = 0

  def add(self, frame: av.AudioFrame):
    if self._rate not in (0, frame.sample_rate):
      raise ValueError(
        f"broken: the sound changes from {self._rate} to "
        f"{frame.sample_rate} samples per second"
      )
    self._rate = frame.sample_rate
    time = None if frame.pts is None else frame.pts * frame.time_base
    self._pieces.append((time, _mono(frame)))

  def join(self, start: Fraction | None) -> tuple[np.ndarray | None, int]:
    """Return the sound from the moment `start` on (None: its own), its rate."""
    if not self._pieces:
      return None, 0
    if start is None:
      start = self._pieces[0][0] or Fraction(0)
    placed, end = [], 0
    for time, piece in self._pieces:
      at = end if time is None else round((time - start) * self._rate)
      if placed and abs(at - end) <= _GAP * self._rate:
        at = end
      placed.append((at, piece))
      end = at + len(piece)
    sound = np.zeros(max(0, *(at + len(piece) for at, piece in placed), 0))
    for at, piece in placed:
      piece = piece[max(0, -at) :]
      sound[max(0, at) : max(0, at) + len(piece)] = piece
    return sound.astype(np.float32), self._rate


def _mono(frame: av.AudioFrame) -> np.ndarray:
  samples = frame.to_ndarray()
  if not frame.format.is_planar:
    samples = samples.reshape(-1, frame.layout.nb_channels).T
  if samples.dtype.kind == "u":
    return (samples.mean(0) - 128) / 128
  if samples.dtype.kind == "i":
    return samples.mean(0) / -float(np.iinfo(samples.dtype).min)
  return samples.mean(0)


def _resampled(sound: np.ndarray, rate: int, wanted: int) -> np.ndarray:
  if rate == wanted:
    return sound.astype(np.float32)
  return soxr.resample(sound.astype(np.float32), rate, wanted, quality="VHQ")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
  """Open a file; whatever is wrong with it becomes a ValueError naming it."""
  if not os.path.isfile(path):
    raise FileNotFoundError(f"{path}: no such file")
  try:
    with av.open(str(path)) as container:
      yield container
  except av.error.FFmpegError as error:
    raise ValueError(f"{path}: broken: {error.strerror}") from error
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _packets(container) -> Iterator[av.Packet]:
  """Yield the packets of the first picture and sound streams."""
  streams = [*container.streams.video[:1], *container.streams.audio[:1]]
  for stream in streams:
    stream.codec_context.options = {"err_detect": "explode"}
  yield from container.demux(streams)


def _container_sound(path: Path) -> tuple[np.ndarray, int]:
  with _opened(path) as container:
    if not container.streams.audio:
      raise ValueError("holds no sound")
    sounds = _Sounds()
    for frame in container.decode(audio=0):
      sounds.add(frame)
    sound, rate = sounds.join(None)
  return np.zeros(0, np.float32) if sound is None else sound, rate


def _check_wav_length(path: pathlib.Path) -> None:
  """Refuse a RIFF file that is shorter than its header says."""
  with path.open("rb") as file:
    header = file.read(8)
  claimed = int.from_bytes(header[4:8], "little") + 8
  # Programs that write into a pipe leave the length at its largest.
  if header[:4] == b"RIFF" and path.stat().st_size < claimed < 0xFFFF_0000:
    raise ValueError(
      f"{path}: cut short: {path.stat().st_size} bytes of {claimed}"
    )


def _picture_stream(container, frames, fps):
  stream = container.add_stream(
    "libx264", rate=Fraction(fps).limit_denominator(1001)
  )
  stream.height, stream.width = (n + n % 2 for n in frames.shape[1:3])
  stream.pix_fmt = "yuv420p"
  stream.options = {"crf": "14", "preset": "medium"}
  return stream


def _encode_pictures(container, stream, frames):
  odd = [(0, n % 2) for n in frames.shape[1:3]]
  for pixels in frames:
    pixels = np.pad(pixels, (*odd, (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    container.mux(stream.encode(frame))
  container.mux(stream.encode(None))


def _encode_sound(container, sound, sample_rate):
  if sample_rate not in _AAC_RATES:
    sound, sample_rate = _resampled(sound, sample_rate, 48_000), 48_000
  stream = container.add_stream("aac", rate=sample_rate, layout="mono")
  stream.bit_rate = 128_000
  samples = np.clip(sound, -1, 1).astype(np.float32)[None]
  frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
  frame.sample_rate = sample_rate
  frame.pts = 0
  for piece in (frame, None):
    container.mux(stream.encode(piece))
