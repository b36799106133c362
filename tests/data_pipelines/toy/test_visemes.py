import itertools
import random

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.toy import sentences, visemes, voices
from data_pipelines.toy.speech import Phoneme, Utterance, synthesise

FPS, RATE = 24, 16_000
REST, CLOSED, WIDE, ROUND, TEETH = 0, 1, 2, 3, 4


def frames_of(spoken: Utterance) -> int:
  return int(spoken.seconds * FPS)


def track_of(spoken: Utterance) -> visemes.Track:
  return visemes.track(
    spoken.phonemes,
    spoken.samples,
    sample_rate=RATE,
    fps=FPS,
    frames=frames_of(spoken),
  )


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
  rng = random.Random(7)
  return [
    synthesise(
      sentences.english(rng, held_out=False),
      voices.english(rng, rng.choice(("man", "woman")), held_out=False),
      sample_rate=RATE,
    )
    for _ in range(20)
  ]


def vowel(ipa: str) -> visemes.Track:
  """Say one long vowel between two pauses."""
  phonemes = (Phoneme(0.0, ""), Phoneme(0.5, ipa), Phoneme(1.5, ""))
  phonemes += (Phoneme(2.0, ""),)
  loud = np.ones(2 * RATE, np.float32)
  return visemes.track(phonemes, loud, sample_rate=RATE, fps=FPS, frames=48)


def test_names_are_those_of_the_records():
  assert visemes.NAMES == records.VISEMES


@pytest.mark.parametrize("sound", ["m", "b", "p"])
def test_lips_are_shut_for_two_frames_on_m_b_p(utterances, sound):
  count = 0
  for spoken in utterances:
    track = track_of(spoken)
    for phoneme, after in itertools.pairwise(spoken.phonemes):
      if phoneme.ipa != sound:
        continue
      # A p is marked where it bursts, a b and an m where the lips meet.
      middle = {
        "m": (phoneme.start + after.start) / 2,
        "b": min(phoneme.start + 0.03, (phoneme.start + after.start) / 2),
        "p": phoneme.start - 0.015,
      }[sound]
      frame = int(middle * FPS)
      if 0 < frame < len(track):
        count += 1
        assert (track.viseme[frame - 1 : frame + 1] == CLOSED).all()
  assert count > 10


def test_shut_lips_do_not_open_however_loud(utterances):
  loudest = 0.0
  for spoken in utterances:
    track = track_of(spoken)
    shut = track.viseme == CLOSED
    assert not track.opening[shut].any()
    loud = visemes.loudness(
      spoken.samples, sample_rate=RATE, fps=FPS, frames=len(track)
    )
    loudest = max(loudest, loud[shut].max() / loud.max())
  assert loudest > 0.8


def test_mouth_rests_in_silence(utterances):
  for spoken in utterances:
    track = track_of(spoken)
    resting = track.viseme == REST
    assert not track.opening[resting].any()
    quiet = visemes.loudness(
      spoken.samples, sample_rate=RATE, fps=FPS, frames=len(track)
    )
    # The silence before a p is no rest; a rest is where phonemes pause.
    for pause, after in itertools.pairwise(spoken.phonemes):
      middle = int((pause.start + after.start) / 2 * FPS)
      if not pause.ipa and after.start - pause.start > 0.25:
        assert resting[middle]
        assert quiet[middle] < 0.1 * quiet.max()


@pytest.mark.parametrize(
  ("ipa", "viseme"),
  [("ˈɑː", WIDE), ("ˈuː", ROUND), ("oː", ROUND), ("f", TEETH), ("v", TEETH)],
)
def test_sound_decides_the_shape(ipa, viseme):
  track = vowel(ipa)
  assert set(track.viseme[14:34]) == {viseme}
  assert not track.viseme[:10].any() and not track.viseme[40:].any()


def test_a_opens_wider_than_u_though_as_loud():
  a, u = vowel("ɑː"), vowel("uː")
  assert a.opening[20] > 2 * u.opening[20] > 0
  assert a.width[20] > 1.5 * u.width[20]


def test_diphthong_moves_from_one_shape_to_the_other():
  viseme = vowel("aʊ").viseme
  assert viseme[14] == WIDE and viseme[33] == ROUND


def test_loudness_changes_the_opening_only_mildly():
  phonemes = (Phoneme(0.0, "ɑː"), Phoneme(2.0, ""))
  fade = np.linspace(0.01, 1, 2 * RATE, dtype=np.float32)
  track = visemes.track(phonemes, fade, sample_rate=RATE, fps=FPS, frames=48)
  middle = track.opening[4:-4]
  assert 0.8 < middle.min() / middle.max() < 1.0


def test_loudness_alone_does_not_tell_the_opening(utterances):
  found = []
  for spoken in utterances:
    track = track_of(spoken)
    loud = visemes.loudness(
      spoken.samples, sample_rate=RATE, fps=FPS, frames=len(track)
    )
    found.append(np.corrcoef(loud, track.opening)[0, 1])
  assert 0.4 < np.mean(found) < 0.8


def test_values_stay_between_0_and_1(utterances):
  for spoken in utterances:
    track = track_of(spoken)
    for values in (track.opening, track.teeth):
      assert values.min() >= 0 and values.max() <= 1


def test_mandarin_moves_the_mouth_too():
  rng = random.Random(3)
  voice = voices.mandarin(rng, "woman")
  spoken = synthesise(sentences.mandarin(rng), voice, sample_rate=RATE)
  assert len(set(track_of(spoken).viseme)) >= 4
