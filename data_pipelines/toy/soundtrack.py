"""What is heard: speech that starts anywhere in what is being said.

Whoever speaks in a take has a line longer than the take: sentences, pauses
between them, and now and then a longer silence at a comma. The take hears a
window of it that starts at random.

How far the speaker is from the microphone drifts, so that how loud it gets
says less about the mouth than what is said.
"""

import dataclasses
import itertools
import math
import random

import numpy as np
from jaxtyping import Float

from data_pipelines.toy import sentences, voices
from data_pipelines.toy.speech import Phoneme, Utterance, Voice, synthesise

LANGUAGES = ("english", "mandarin")

# Seconds of silence before, between and after sentences; how often and for
# how long a pause inside one is stretched.
_EDGE = 0.35
_STRETCHED, _STRETCH = 0.5, (0.25, 0.7)
# The drift: how deep, in decibels, and how many seconds there and back.
_DRIFT, _DRIFT_PERIOD = 10.0, (1.5, 4.0)


@dataclasses.dataclass(frozen=True)
class Line:
  """A window of speech: phonemes in seconds from its start."""

  samples: Float[np.ndarray, "A"]
  phonemes: tuple[Phoneme, ...]
  voice: Voice
  text: str


def cast_voices(
  genders: tuple[str, ...],
  rng: random.Random,
  *,
  language: str,
  held_out: bool,
) -> list[Voice]:
  """Draw a voice per person, no two alike."""
  chosen: list[Voice] = []
  while len(chosen) < len(genders):
    gender = genders[len(chosen)]
    if language == "mandarin":
      voice = voices.mandarin(rng, gender)
    else:
      voice = voices.english(rng, gender, held_out=held_out)
    if voice.name not in [other.name for other in chosen]:
      chosen.append(voice)
  return chosen


def line(
  voice: Voice,
  rng: random.Random,
  *,
  samples: int,
  sample_rate: int,
  language: str,
  held_out: bool,
) -> Line:
  """Let a voice speak, and cut out a window of `samples` samples."""
  texts = []
  chunks = [_silence(_EDGE, sample_rate)]
  phonemes = [Phoneme(0.0, "")]
  length = len(chunks[0])
  while length < samples + 2 * _EDGE * sample_rate:
    if language == "mandarin":
      text = sentences.mandarin(rng)
    else:
      text = sentences.english(rng, held_out=held_out)
    spoken = synthesise(text, voice, sample_rate=sample_rate)
    spoken = _stretched(spoken, rng)
    start = length / sample_rate
    phonemes += [Phoneme(start + p.start, p.ipa) for p in spoken.phonemes]
    gap = _silence(_EDGE, sample_rate)
    chunks += [spoken.samples, gap]
    phonemes.append(Phoneme(start + spoken.seconds, ""))
    length += len(spoken.samples) + len(gap)
    texts.append(text)
  phonemes.append(Phoneme(length / sample_rate, ""))
  first = rng.randint(0, length - samples)
  offset = first / sample_rate
  window = np.concatenate(chunks)[first : first + samples]
  return Line(
    samples=window * _drift(rng, samples, sample_rate),
    phonemes=tuple(Phoneme(p.start - offset, p.ipa) for p in phonemes),
    voice=voice,
    text=" ".join(texts),
  )


def _drift(
  rng: random.Random, samples: int, sample_rate: int
) -> Float[np.ndarray, "n"]:
  """Return a gain that comes and goes slowly."""
  turn = 2 * math.pi / (rng.uniform(*_DRIFT_PERIOD) * sample_rate)
  phase = rng.uniform(0, 2 * math.pi)
  wave = np.sin(turn * np.arange(samples) + phase)
  return (10 ** (_DRIFT / 40 * (wave - 1))).astype(np.float32)


def _silence(seconds: float, sample_rate: int) -> Float[np.ndarray, "n"]:
  return np.zeros(round(seconds * sample_rate), np.float32)


def _stretched(spoken: Utterance, rng: random.Random) -> Utterance:
  """Insert silence into some of the pauses."""
  rate = spoken.sample_rate
  pieces, phonemes = [], []
  done, added = 0, 0.0
  for phoneme, after in itertools.pairwise(spoken.phonemes):
    phonemes.append(Phoneme(phoneme.start + added, phoneme.ipa))
    is_pause = not phoneme.ipa and after.start - phoneme.start > 0.1
    if is_pause and rng.random() < _STRETCHED:
      silence = _silence(rng.uniform(*_STRETCH), rate)
      at = round((phoneme.start + after.start) / 2 * rate)
      pieces += [spoken.samples[done:at], silence]
      done, added = at, added + len(silence) / rate
  last = spoken.phonemes[-1]
  phonemes.append(Phoneme(last.start + added, last.ipa))
  pieces.append(spoken.samples[done:])
  return dataclasses.replace(
    spoken, samples=np.concatenate(pieces), phonemes=tuple(phonemes)
  )
