"""Pictures and sound: how files become arrays and arrays become files.

Time stamps decide everything. Sample 0 of a sound that is read with its
pictures is the moment at which the first of them appears, and picture k is
what a viewer sees in the middle of the interval [k, k + 1) / fps.
"""

import dataclasses
import os
import pathlib
from fractions import Fraction

import av
import numpy as np
import soundfile
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, UInt8

from mocha_jax import decode
from mocha_jax.resampling import resample

Path = decode.Path

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
        raise ValueError(f"{field.name}={value} must be at least 1")
    if self.sample_rate < self.fps:
      raise ValueError(
        f"sample_rate={self.sample_rate} must be at least fps={self.fps}: "
        "every picture needs a sample"
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
  fps: decode.Rate | None = None,
  size: tuple[int, int] | None = None,
  sample_rate: int | None = None,
  max_frames: int | None = None,
) -> Video:
  """Read pictures and sound, aligned by their time stamps.

  The sound is mono and cut where the pictures end; it may end before them
  (`fit` then fills it up with silence).

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
  with decode.opened(path) as container:
    if not container.streams.video:
      raise ValueError("no video: it holds no pictures")
    stream = container.streams.video[0]
    pictures = decode.Pictures(stream, fps, size, max_frames)
    sounds = decode.Sounds()
    sound_streams = dict.fromkeys(container.streams.audio[:1], sounds)
    decode.decode(container, {stream: pictures, **sound_streams})
    frames, rate = pictures.finish()
    found = sounds.finish(pictures.start)
  if found is None:
    return Video(frames, rate, None, sample_rate or 1)
  sound, sound_rate = found
  if not np.isfinite(sound).all():
    raise ValueError(
      f"{path}: broken: its sound has samples that are no number"
    )
  sample_rate = sample_rate or sound_rate
  sound = resample(sound, sound_rate, sample_rate)
  samples = round(len(frames) * sample_rate / rate)
  return Video(frames, rate, sound[:samples], sample_rate)


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
  except soundfile.LibsndfileError:
    sound, rate = _sound_of_video(path)
  else:
    sound = samples.mean(1)
    _check_wav_length(path)
  if not len(sound):
    raise ValueError(f"{path}: holds no sound")
  if not np.isfinite(sound).all():
    raise ValueError(f"{path}: holds samples that are not finite numbers")
  return resample(sound, rate, sample_rate)


def check_video_path(path: pathlib.Path) -> None:
  """Raise a ValueError where `write_video` could not write a new file."""
  if path.is_dir():
    raise ValueError(f"{path} is a folder: give the name of an .mp4 file")
  if path.suffix.lower() != ".mp4":
    raise ValueError(f"{path}: what is written is an .mp4, so name it that")
  for folder in path.parents:
    if folder.exists() and not folder.is_dir():
      raise ValueError(f"{folder} is a file: {path} cannot be made in it")


def write_video(
  path: Path,
  frames: UInt8[np.ndarray, "F H W 3"],
  fps: decode.Rate,
  sound: Float[np.ndarray, "A"] | None,
  sample_rate: int,
) -> None:
  """Write an mp4, H.264 and AAC, sound and pictures starting together.

  An odd height or width grows by one repeated row or column, which H.264 with
  halved colour needs. The file appears when it is whole, never half-written.
  Raises ValueError for a path or frames that cannot be written.
  """
  if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
    raise ValueError(f"{frames.shape=} must be [F, H, W, 3] with F >= 1")
  if not fps > 0:
    raise ValueError(f"{fps=} must be more than 0")
  path = pathlib.Path(path)
  check_video_path(path)
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


def _sound_of_video(path: Path) -> tuple[np.ndarray, int]:
  with decode.opened(path) as container:
    if not container.streams.audio:
      raise ValueError("no sound file: it holds no sound")
    sounds = decode.Sounds()
    decode.decode(container, {container.streams.audio[0]: sounds})
    return sounds.finish(None) or (np.zeros(0, np.float32), 1)


def _check_wav_length(path: pathlib.Path) -> None:
  """Refuse a wav that is shorter than its header says."""
  with path.open("rb") as file:
    header = file.read(8)
  claimed, found = int.from_bytes(header[4:], "little") + 8, path.stat().st_size
  # Some leave out the byte that pads to an even length, and a program that
  # writes into a pipe claims the largest length there is.
  if header[:4] == b"RIFF" and found + 1 < claimed < 0x7FFF_0000:
    raise ValueError(f"{path}: cut short: {found} of {claimed} bytes")


def _picture_stream(container, frames, fps):
  stream = container.add_stream(
    "libx264", rate=Fraction(fps).limit_denominator(1001)
  )
  stream.height, stream.width = (n + n % 2 for n in frames.shape[1:3])
  stream.pix_fmt = "yuv420p"
  # What from_ndarray's pictures become, said so that players know too.
  stream.codec_context.colorspace = Colorspace.ITU601
  stream.codec_context.color_range = ColorRange.MPEG
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
    sound, sample_rate = resample(sound, sample_rate, 48_000), 48_000
  stream = container.add_stream("aac", rate=sample_rate, layout="mono")
  stream.bit_rate = 128_000
  samples = np.clip(sound, -1, 1).astype(np.float32)[None]
  frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
  frame.sample_rate = sample_rate
  frame.pts = 0
  for piece in (frame, None):
    container.mux(stream.encode(piece))
