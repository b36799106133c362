"""How well a measured mouth follows the true one, frame by frame.

The headline is Pearson's correlation over the frames in which a speaking
person is visible, averaged over speaking persons:

  r = sum_i (m_i - mean m) (t_i - mean t) / (F std(m) std(t))
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

REST, CLOSED = 0, 1  # The visemes of a mouth at rest, and shut on m, b, p.

# On true frames of 72 clips of all kinds, mouths that are shut measure 0.06 at
# most, and 95 % of those that speak 0.11 or more.
SHUT_BELOW = 0.10

# Shares of a clip's loud level, the 95th percentile of its frames.
QUIET, LOUD = 0.03, 0.15

_LAGS = tuple(range(-3, 4))
_SMOOTHINGS = (1, 3, 5, 7)  # Frames of a triangle's half and of its base.
_SHAPES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
  *(lambda x, p=p: x**p for p in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)),
  *(lambda x, k=k: np.log1p(k * x) for k in (1.0, 10.0, 100.0, 1000.0)),
)


@dataclasses.dataclass(frozen=True)
class Mouths:
  """The mouths of one clip: what was measured, and what is true.

  loudness is the root mean square of the sound over each video frame, all zero
  without speech; speaker holds the index of who speaks, or -1.
  """

  name: str
  measured: Float[np.ndarray, "P F"]
  truth: Float[np.ndarray, "P F"]
  viseme: UInt8[np.ndarray, "P F"]
  speaker: Int[np.ndarray, "F"]
  visible: Bool[np.ndarray, "P F"]
  loudness: Float[np.ndarray, "F"]

  def __post_init__(self):
    shapes = {
      self.measured.shape,
      self.truth.shape,
      self.viseme.shape,
      self.visible.shape,
    }
    if len(shapes) > 1 or self.loudness.shape != self.speaker.shape:
      raise ValueError(f"{self.name}: mouths of differing shapes {shapes}")

  @property
  def speaking(self) -> list[int]:
    """Who speaks at some time."""
    return [int(p) for p in np.unique(self.speaker) if p >= 0]


@dataclasses.dataclass(frozen=True)
class _Track:
  clip: str
  measured: Float[np.ndarray, "F"]
  truth: Float[np.ndarray, "F"]
  loudness: Float[np.ndarray, "F"]  # Of the whole clip, frames not picked.
  frames: Int[np.ndarray, "F"]  # Where in the clip the track's frames are.


def loudness(
  speech: Float[np.ndarray, "A"], *, sample_rate: int, fps: float, frames: int
) -> Float[np.ndarray, "F"]:
  """Return the sound's root mean square over each of `frames` video frames."""
  edges = np.round(np.arange(frames + 1) * sample_rate / fps).astype(int)
  padded = np.zeros(edges[-1], np.float64)
  padded[: len(speech)] = speech[: edges[-1]]
  power = np.add.reduceat(padded**2, edges[:-1]) / np.diff(edges)
  return np.sqrt(power).astype(np.float32)


def correlation(
  measured: Float[np.ndarray, "F"], truth: Float[np.ndarray, "F"]
) -> float | None:
  """Return Pearson's r; None if the truth is constant, 0 if only measured is.

  A mouth that never moves follows nothing, hence 0; where nothing is to be
  followed there is no score.
  """
  if len(truth) < 2 or np.ptp(truth) < 1e-3:
    return None
  if np.ptp(measured) < 1e-6:
    return 0.0
  m, t = measured - measured.mean(), truth - truth.mean()
  return float(m @ t / np.sqrt((m @ m) * (t @ t)))


def mean(values: Sequence[float | None]) -> float | None:
  """Average what is not None; None if nothing is left."""
  numbers = [v for v in values if v is not None]
  return float(np.mean(numbers)) if numbers else None


def _tracks(clips: Sequence[Mouths]) -> list[_Track]:
  """Cut out every speaking person, over the frames that show that person."""
  found = []
  for clip in clips:
    for person in clip.speaking:
      frames = np.flatnonzero(clip.visible[person])
      if len(frames):
        found.append(
          _Track(
            clip.name,
            clip.measured[person, frames],
            clip.truth[person, frames],
            clip.loudness,
            frames,
          )
        )
  return found


def mouth_correlation(clips: Sequence[Mouths]) -> float | None:
  """Average the correlation over speaking persons whose mouth truly moves."""
  return mean([correlation(t.measured, t.truth) for t in _tracks(clips)])


def constant_tracks(clips: Sequence[Mouths]) -> int:
  """Count the speaking persons that have no correlation: a constant truth."""
  return sum(correlation(t.truth, t.truth) is None for t in _tracks(clips))


def swapped_correlation(clips: Sequence[Mouths]) -> float | None:
  """Correlate each measured mouth with the true ones of all other clips.

  The mean over all ordered pairs; the longer of two tracks is cut short. It is
  near 0 unless mouths follow something that all clips share.
  """
  pairs = itertools.permutations(_tracks(clips), 2)
  values = []
  for own, other in pairs:
    if own.clip != other.clip:
      n = min(len(own.measured), len(other.truth))
      values.append(correlation(own.measured[:n], other.truth[:n]))
  return mean(values)


def loudness_correlation(clips: Sequence[Mouths]) -> float | None:
  """Return the best that a mouth following loudness alone would reach.

  The mouth is g(smooth(loudness)[i - lag]); g a power or a logarithm, smoothing
  and lag the same for all clips, chosen so that the mean is highest.
  """
  tracks = _tracks(clips)
  best = None
  for width, lag, shape in itertools.product(_SMOOTHINGS, _LAGS, _SHAPES):
    values = []
    for track in tracks:
      level = shape(_smooth(_relative(track.loudness), width))
      last = len(level) - 1
      picked = level[np.clip(track.frames - lag, 0, last)]
      values.append(correlation(picked, track.truth))
    value = mean(values)
    if value is not None and (best is None or value > best):
      best = value
  return best


def _relative(level: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F"]:
  """Divide by the clip's loud level; all zero stays all zero."""
  loud = np.percentile(level, 95)
  return level / loud if loud > 1e-5 else np.zeros_like(level)


def _smooth(level: Float[np.ndarray, "F"], width: int) -> np.ndarray:
  """Convolve with a triangle of `width` frames, edges repeated."""
  half = width // 2
  kernel = np.bartlett(width + 2)[1:-1]
  padded = np.pad(level, half, mode="edge")
  return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def viseme_closed_accuracy(clips: Sequence[Mouths]) -> float | None:
  """Share of loud frames on m, b, p in which the measured mouth is shut."""
  hits = []
  for clip in clips:
    loud = _relative(clip.loudness) >= LOUD
    for person in clip.speaking:
      asked = loud & clip.visible[person] & (clip.viseme[person] == CLOSED)
      hits.append(_shut(clip, person, asked))
  return _pooled(hits)


def rest_in_silence(clips: Sequence[Mouths]) -> float | None:
  """Share of silent frames in which the measured mouth is shut.

  In a clip with speech: the speaking persons, where the sound is quiet and the
  true mouth at rest. Without speech: everyone visible.
  """
  hits = []
  for clip in clips:
    quiet = _relative(clip.loudness) <= QUIET
    people = clip.speaking or range(len(clip.measured))
    for person in people:
      asked = quiet & clip.visible[person] & (clip.viseme[person] == REST)
      hits.append(_shut(clip, person, asked))
  return _pooled(hits)


def listener_at_rest(clips: Sequence[Mouths]) -> float | None:
  """Share of frames in which who listens in the same shot has a shut mouth."""
  hits = []
  for clip in clips:
    for person in range(len(clip.measured)):
      other = (clip.speaker >= 0) & (clip.speaker != person)
      hits.append(_shut(clip, person, other & clip.visible[person]))
  return _pooled(hits)


def _shut(
  clip: Mouths, person: int, frames: Bool[np.ndarray, "F"]
) -> Bool[np.ndarray, "G"]:
  return clip.measured[person, frames] <= SHUT_BELOW


def _pooled(hits: Sequence[Bool[np.ndarray, "G"]]) -> float | None:
  joined = np.concatenate([np.zeros(0, bool), *hits])
  return float(joined.mean()) if len(joined) else None
