"""From one media file to its raw records, or the reason why it is refused."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float

from data_pipelines import records
from mocha_jax import media, prompts

REASONS = (
  "broken",
  "silent",
  "soundless",
  "too short",
  "not aligned",
  "no caption",
  "bad caption",
)
# Codecs pad, and lose the last frame of sound: so many seconds less sound than
# pictures is no loss.
_SOUND_LESS = 0.1
# Cosine of a clip's sound and its speech below which they are not the same.
_SAME_SOUND = 0.3
# Seconds over which loudness is measured.
_LOUDNESS = 0.05


class Refused(Exception):
  """A clip that is not taken: one of REASONS, and what was found."""

  def __init__(self, reason: str, detail: str):
    super().__init__(reason, detail)
    self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class ReadConfig:
  """How clips are read.

  Attributes:
    align: Shift speech that comes from a file of its own to where the clip's
      own sound has it. Otherwise it starts with the first picture.
    windows: Cut a long clip into up to so many records.
    silence: Decibels of full scale; sound of which no 50 ms are louder is
      silent.
  """

  align: bool = False
  windows: int = 1
  silence: float = -50.0

  def __post_init__(self):
    if self.windows < 1:
      raise ValueError(f"windows={self.windows} must be at least 1")
    if not self.silence < 0:
      raise ValueError(f"silence={self.silence} dB must be below 0")


@dataclasses.dataclass(frozen=True)
class RealClip:
  """A media file, its caption, and where its speech is (None: in the file)."""

  name: str
  path: pathlib.Path
  prompt: str
  kind: str
  split: str
  speech: pathlib.Path | None


def read(
  source: RealClip, clip: media.ClipFormat, config: ReadConfig
) -> tuple[list[records.Record], str]:
  """Return the raw records of a file, one per window, and remarks on it.

  No people are known (P = 0). The first window carries the clip's name,
  window w > 0 that name and `@w`. Of several windows, silent ones are left
  out. Raises Refused.
  """
  prompt = _prompt(source)
  video = _video(source, clip, config)
  sound, remark = _sound(source, video, clip, config)
  taken, windows = [], len(video.frames) // clip.frames
  for window in range(windows):
    speech = sound
    if len(sound):
      start = round(window * clip.frames * clip.sample_rate / clip.fps)
      speech = media.fit(sound[start:], clip.samples)
      if loudness(speech, clip.sample_rate) < config.silence:
        continue
    name = f"{source.name}@{window}" if window else source.name
    frames = video.frames[window * clip.frames :][: clip.frames]
    taken.append(_record(source, name, prompt, frames, speech))
  if not taken:
    level = loudness(sound[: windows * clip.samples], clip.sample_rate)
    raise Refused("silent", f"no louder than {level:.0f} dB of full scale")
  if len(taken) < windows:
    remark += f"; {windows - len(taken)} of {windows} windows silent, left out"
  return taken, remark.removeprefix("; ")


def loudness(sound: Float[np.ndarray, "A"], sample_rate: int) -> float:
  """Return the level of the loudest 50 ms, in decibels of full scale."""
  width = max(1, round(_LOUDNESS * sample_rate))
  blocks = np.resize(np.square(sound), (-(-len(sound) // width), width))
  return float(10 * np.log10(blocks.mean(1).max(initial=0) + 1e-12))


def _prompt(source: RealClip) -> str:
  try:
    return prompts.format(prompts.parse(source.prompt))
  except ValueError as error:
    raise Refused("bad caption", str(error)) from error


def _video(
  source: RealClip, clip: media.ClipFormat, config: ReadConfig
) -> media.Video:
  try:
    video = media.read_video(
      source.path,
      fps=clip.fps,
      size=(clip.height, clip.width),
      sample_rate=clip.sample_rate,
      max_frames=clip.frames * config.windows,
    )
  except (ValueError, OSError) as error:
    raise Refused("broken", str(error)) from error
  if len(video.frames) < clip.frames:
    raise Refused(
      "too short",
      f"{len(video.frames)} pictures at {clip.fps} per second, "
      f"{clip.frames} needed",
    )
  return video


def _sound(
  source: RealClip,
  video: media.Video,
  clip: media.ClipFormat,
  config: ReadConfig,
) -> tuple[Float[np.ndarray, "A"], str]:
  """Return the speech from the first picture on, and a remark."""
  if source.kind == "text_only":
    return np.zeros(0, np.float32), ""
  if source.speech is None:
    return _own_sound(video, clip), ""
  try:
    speech = media.read_sound(source.speech, clip.sample_rate)
  except (ValueError, OSError) as error:
    raise Refused("broken", str(error)) from error
  remark = ""
  if video.sound is not None and video.sound.any():
    speech, remark = _aligned(speech, video.sound, clip, config)
  elif config.align:
    raise Refused("not aligned", "has no sound of its own to align with")
  _check_length(speech, clip, f"of {source.speech.name}{remark}")
  return speech, remark


def _own_sound(
  video: media.Video, clip: media.ClipFormat
) -> Float[np.ndarray, "A"]:
  if video.sound is None:
    raise Refused("soundless", "has no sound, and none lies beside it")
  _check_length(video.sound, clip, "of sound")
  return video.sound


def _check_length(
  sound: Float[np.ndarray, "A"], clip: media.ClipFormat, what: str
) -> None:
  """Refuse sound that does not last as long as the pictures."""
  there, needed = (n / clip.sample_rate for n in (len(sound), clip.samples))
  if needed - there > _SOUND_LESS:
    raise Refused("too short", f"{there:.2f} s {what}, {needed:.2f} s needed")


def _aligned(
  speech: Float[np.ndarray, "A"],
  sound: Float[np.ndarray, "C"],
  clip: media.ClipFormat,
  config: ReadConfig,
) -> tuple[Float[np.ndarray, "_"], str]:
  """Shift speech to where the clip's own sound has it, or remark on it."""
  lag = media.measure_lag(sound, speech)
  shifted = np.pad(speech[max(0, -lag) :], (max(0, lag), 0))
  both = min(len(shifted), len(sound))
  cosine = float(shifted[:both] @ sound[:both]) / (
    float(np.linalg.norm(shifted[:both]) * np.linalg.norm(sound[:both])) + 1e-9
  )
  found = (
    f"a lag of {lag / clip.sample_rate:+.4f} s, with a cosine of {cosine:.2f}"
  )
  if config.align:
    if cosine < _SAME_SOUND:
      raise Refused("not aligned", f"its sound is not the speech: {found}")
    return shifted, f"; speech shifted to {found}" if lag else ""
  if cosine >= _SAME_SOUND and abs(lag) * clip.fps > clip.sample_rate:
    return speech, f"; not in sync: its own sound has the speech at {found}"
  return speech, ""


def _record(source, name, prompt, frames, speech) -> records.Record:
  people, count = 0, len(frames)
  return {
    "name": name,
    "kind": source.kind,
    "prompt": prompt,
    "frames": frames,
    "speech": speech.astype(np.float32),
    "mouth": np.zeros((people, count), np.float32),
    "viseme": np.zeros((people, count), np.uint8),
    "visible": np.zeros((people, count), np.bool_),
    "speaker": np.full(count, -1, np.int32),
    "cuts": np.zeros(0, np.int32),
    "attributes": "[]",
  }
