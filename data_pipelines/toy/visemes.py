"""The mouth that belongs to a sound: phonemes to a track of mouth shapes.

Closed lips (m b p) win over everything else, last two frames at least and are
there ahead of the sound, as animators do it. Loudness changes the
opening only mildly: the sound's identity decides.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.toy.mouth import REST, Mouth
from data_pipelines.toy.speech import Phoneme

NAMES = ("rest", "closed", "wide", "round", "teeth", "spread", "small")
_REST, _CLOSED, _WIDE, _ROUND, _TEETH, _SPREAD, _SMALL = range(7)


@dataclasses.dataclass(frozen=True)
class _Shape:
  viseme: int
  opening: float
  width: float
  teeth: float = 0.0


_SHAPES = {
  "rest": _Shape(_REST, 0.0, REST.width),
  "mbpɱ": _Shape(_CLOSED, 0.0, 0.75),
  "fv": _Shape(_TEETH, 0.07, 0.85, 1.0),
  "aɑæ": _Shape(_WIDE, 1.0, 1.0),
  "ʌɐ": _Shape(_WIDE, 0.75, 0.92),
  "ɒɔ": _Shape(_ROUND, 0.60, 0.58),
  "oɵø": _Shape(_ROUND, 0.45, 0.48),
  "uʊʉyʏɥ": _Shape(_ROUND, 0.24, 0.36),
  "w": _Shape(_ROUND, 0.18, 0.34),
  "ɛ": _Shape(_SPREAD, 0.45, 1.0, 0.3),
  "eɪᵻ": _Shape(_SPREAD, 0.28, 1.05, 0.5),
  "ij": _Shape(_SPREAD, 0.20, 1.1, 0.6),
  "əɚɜ": _Shape(_SMALL, 0.28, 0.75),
  "hχx": _Shape(_SMALL, 0.40, 0.8),
  "kgɡŋ": _Shape(_SMALL, 0.26, 0.75),
  "ʃʒɕʂʐ": _Shape(_SMALL, 0.22, 0.60),
}
# Any other consonant: the tongue works behind lips that barely part.
_OTHER = _Shape(_SMALL, 0.17, 0.75, 0.2)
_BY_LETTER = {
  letter: shape
  for letters, shape in _SHAPES.items()
  if letters != "rest"
  for letter in letters
}
_MARKS = "ˈˌːˑ̩̪̃ʰʲ'.0123456789-^~"

# A pause shorter than this is part of a stop, not silence. Seconds.
_PAUSE = 0.12
# espeak-ng marks p where it bursts: the lips have been shut for 50 ms. b it
# marks where they shut; 60 ms later they part.
_P_BEFORE, _P_AFTER, _B_AFTER = 0.05, 0.02, 0.06
_FINE = 8  # Samples of the smoothed curve per frame.
_SMOOTHING = 0.09  # Seconds over which a shape gives way to the next.


@dataclasses.dataclass(frozen=True)
class Track:
  """A mouth over time: opening, width and teeth in 0..1, index of NAMES."""

  opening: Float[np.ndarray, "F"]
  width: Float[np.ndarray, "F"]
  teeth: Float[np.ndarray, "F"]
  viseme: UInt8[np.ndarray, "F"]

  def __len__(self) -> int:
    return len(self.viseme)

  def mouth(self, frame: int) -> Mouth:
    """Return what to draw in a frame."""
    return Mouth(
      opening=float(self.opening[frame]),
      width=float(self.width[frame]),
      teeth=float(self.teeth[frame]),
      pressed=bool(self.viseme[frame] == _CLOSED),
    )


@dataclasses.dataclass(frozen=True)
class _Gesture:
  start: float
  end: float
  shape: _Shape
  stress: float


def at_rest(frames: int) -> Track:
  """Return the track of someone who says nothing."""
  zeros = np.zeros(frames, np.float32)
  width = np.full(frames, REST.width, np.float32)
  return Track(zeros, width, zeros, np.zeros(frames, np.uint8))


def join(parts: Sequence[Track]) -> Track:
  """Put tracks one after another."""
  return Track(
    *(
      np.concatenate([getattr(part, field.name) for part in parts])
      for field in dataclasses.fields(Track)
    )
  )


def track(
  phonemes: Sequence[Phoneme],
  samples: Float[np.ndarray, "A"],
  *,
  sample_rate: int,
  fps: int,
  frames: int,
) -> Track:
  """Return the mouth at each frame's middle, (f + 1/2) / fps seconds.

  Phonemes and samples start together at 0; a pause must end the phonemes.
  """
  gestures = _gestures(phonemes)
  centres = (np.arange(frames) + 0.5) / fps
  owner = _at(gestures, centres)
  viseme = np.array([g.shape.viseme if g else _REST for g in owner], np.uint8)
  opening, width, teeth = _smoothed(gestures, fps=fps, frames=frames)
  loud = loudness(samples, sample_rate=sample_rate, fps=fps, frames=frames)
  opening *= 0.85 + 0.15 * np.clip(loud / max(float(loud.max()), 1e-6), 0, 1)
  _hold(gestures, viseme, fps)
  opening[viseme == _CLOSED] = 0.0
  opening[viseme == _REST] = 0.0
  biting = viseme == _TEETH
  opening[biting] = np.minimum(opening[biting], 0.10)
  teeth = np.where(biting, 1.0, np.minimum(teeth, 0.5))
  teeth[opening == 0.0] = 0.0
  width[(viseme == _REST) | (viseme == _CLOSED)] = REST.width
  return Track(
    opening.astype(np.float32),
    width.astype(np.float32),
    teeth.astype(np.float32),
    viseme,
  )


def loudness(
  samples: Float[np.ndarray, "A"], *, sample_rate: int, fps: int, frames: int
) -> Float[np.ndarray, "F"]:
  """Return the root mean square of the two frames' time around each middle."""
  power = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=float))])
  centres = (np.arange(frames) + 0.5) / fps
  last = len(samples)
  low = np.clip((centres - 1 / fps) * sample_rate, 0, last).astype(int)
  high = np.clip((centres + 1 / fps) * sample_rate, 0, last).astype(int)
  mean = (power[high] - power[low]) / np.maximum(high - low, 1)
  return np.sqrt(np.maximum(mean, 0.0))


def _gestures(phonemes: Sequence[Phoneme]) -> list[_Gesture]:
  """Return what the lips do, in order and without gaps."""
  spans = []
  ends = [p.start for p in phonemes[1:]] + [phonemes[-1].start]
  for phoneme, end in zip(phonemes, ends, strict=True):
    spans += _spans(phoneme, end)
  gestures: list[_Gesture] = []
  for start, end, shape, stress in spans:
    while gestures and gestures[-1].start >= start:
      gestures.pop()
    if gestures:
      gestures[-1] = dataclasses.replace(gestures[-1], end=start)
    gestures.append(_Gesture(start, end, shape, stress))
  return gestures


def _spans(
  phoneme: Phoneme, end: float
) -> list[tuple[float, float, _Shape, float]]:
  """Split a phoneme (a diphthong has two shapes) into timed shapes."""
  start, seconds = phoneme.start, end - phoneme.start
  letters = [c for c in phoneme.ipa if c not in _MARKS]
  if not letters:
    # The end of a clause, or the silence inside a stop.
    if seconds < _PAUSE:
      return []
    return [(start, end, _SHAPES["rest"], 1.0)]
  if letters == ["p"] or letters[:2] == ["p", "h"]:
    return [
      (start - _P_BEFORE, start + _P_AFTER, _BY_LETTER["p"], 1.0),
      (start + _P_AFTER, max(end, start + _P_AFTER + 1e-3), _OTHER, 1.0),
    ]
  if letters == ["b"]:
    part = min(end, start + _B_AFTER)
    return [
      (start, part, _BY_LETTER["b"], 1.0),
      (part, max(end, part + 1e-3), _OTHER, 1.0),
    ]
  stress = 1.0 if "ˈ" in phoneme.ipa or "ˌ" in phoneme.ipa else 0.85
  step = seconds / len(letters)
  return [
    (
      start + step * i,
      start + step * (i + 1),
      _BY_LETTER.get(c, _OTHER),
      stress,
    )
    for i, c in enumerate(letters)
  ]


def _at(
  gestures: Sequence[_Gesture], times: Float[np.ndarray, "n"]
) -> list[_Gesture | None]:
  starts = np.array([g.start for g in gestures])
  index = np.searchsorted(starts, times, side="right") - 1
  return [
    gestures[i] if i >= 0 and t < gestures[i].end else None
    for i, t in zip(index, times, strict=True)
  ]


def _smoothed(
  gestures: Sequence[_Gesture], *, fps: int, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return opening, width and teeth, each shape giving way to the next."""
  margin = _FINE
  fine = (np.arange(-margin, frames * _FINE + margin) + 0.5) / (fps * _FINE)
  rest = _SHAPES["rest"]
  targets = np.array(
    [
      (g.shape.opening * g.stress, g.shape.width, g.shape.teeth)
      if g
      else (rest.opening, rest.width, rest.teeth)
      for g in _at(gestures, fine)
    ]
  )
  kernel = np.hanning(round(_SMOOTHING * fps * _FINE) + 2)[1:-1]
  kernel /= kernel.sum()
  curves = [np.convolve(column, kernel, "same") for column in targets.T]
  middle = margin + _FINE // 2 + _FINE * np.arange(frames)
  opening, width, teeth = (
    (curve[middle] + curve[middle - 1]) / 2 for curve in curves
  )
  return opening, width, teeth


def _hold(
  gestures: Sequence[_Gesture], viseme: UInt8[np.ndarray, "F"], fps: int
) -> None:
  """Give every bite a frame at least, and every closure two.

  Those are the frame in which its middle falls and the one before.
  """
  for kind, before in ((_TEETH, 0), (_CLOSED, 1)):
    for gesture in gestures:
      if gesture.shape.viseme == kind:
        frame = int(np.floor((gesture.start + gesture.end) / 2 * fps))
        viseme[max(frame - before, 0) : max(frame + 1, 0)] = kind
