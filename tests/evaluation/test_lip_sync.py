import dataclasses

import numpy as np
import pytest

from mocha_jax.evaluation import lip_sync
from mocha_jax.evaluation.lip_sync import CLOSED, REST, Mouths

FRAMES = 48


def talker(seed: int, *, people: int = 1) -> Mouths:
  """Person 0 speaks a random mouth; anyone else listens, at rest."""
  rng = np.random.default_rng(seed)
  truth = np.zeros((people, FRAMES), np.float32)
  steps = rng.random(FRAMES // 3)
  truth[0] = np.repeat(steps, 3)
  viseme = np.where(truth > 0, 2, REST).astype(np.uint8)
  return Mouths(
    name=f"clip_{seed}",
    measured=truth.copy(),
    truth=truth,
    viseme=viseme,
    speaker=np.zeros(FRAMES, np.int32),
    visible=np.ones((people, FRAMES), bool),
    loudness=truth[0] + rng.random(FRAMES).astype(np.float32),
  )


def number(score: float | None) -> float:
  assert score is not None
  return score


def with_(clip: Mouths, **changes) -> Mouths:
  return dataclasses.replace(clip, **changes)


@pytest.fixture
def clips():
  return [talker(seed) for seed in range(8)]


def test_perfect_copy_correlates_fully(clips):
  assert lip_sync.mouth_correlation(clips) == pytest.approx(1.0, abs=1e-6)


def test_correlation_ignores_gain_and_offset(clips):
  dimmed = [with_(c, measured=0.3 * c.truth + 0.2) for c in clips]
  assert lip_sync.mouth_correlation(dimmed) == pytest.approx(1.0, abs=1e-5)


def test_each_frame_of_delay_lowers_the_correlation(clips):
  def delayed(lag):
    shifted = [with_(c, measured=np.roll(c.truth, lag, axis=1)) for c in clips]
    return number(lip_sync.mouth_correlation(shifted))

  values = [delayed(lag) for lag in range(4)]
  assert values == sorted(values, reverse=True)
  assert values[3] < 0.3


def test_swapped_is_near_zero_for_mouths_of_their_own(clips):
  many = [*clips, *(talker(seed) for seed in range(8, 24))]
  assert abs(number(lip_sync.swapped_correlation(many))) < 0.1


def test_swapped_is_high_for_a_mouth_that_all_share(clips):
  same = clips[0].truth
  shared = [with_(c, measured=same, truth=same) for c in clips]
  assert lip_sync.swapped_correlation(shared) == pytest.approx(1.0, abs=1e-5)


def test_swapped_never_pairs_the_people_of_one_clip():
  one = talker(0, people=2)
  speaker = np.where(np.arange(FRAMES) < 24, 0, 1).astype(np.int32)
  truth = np.stack([one.truth[0], one.truth[0][::-1]])
  alone = with_(one, truth=truth, measured=truth, speaker=speaker)
  assert lip_sync.swapped_correlation([alone]) is None


def test_constant_truth_is_left_out_and_counted(clips):
  still = with_(clips[0], truth=np.full((1, FRAMES), 0.2, np.float32))
  assert lip_sync.mouth_correlation([still]) is None
  assert lip_sync.mouth_correlation([still, clips[1]]) == pytest.approx(1.0)
  assert lip_sync.constant_tracks([still, clips[1]]) == 1


def test_frozen_mouth_scores_zero(clips):
  frozen = [with_(c, measured=np.ones_like(c.truth)) for c in clips]
  assert lip_sync.mouth_correlation(frozen) == 0.0


def test_only_frames_that_show_the_speaker_count(clips):
  clip = clips[0]
  wrong = clip.truth.copy()
  wrong[:, 24:] = 1 - wrong[:, 24:]
  visible = np.arange(FRAMES)[None] < 24
  hidden = with_(clip, measured=wrong, visible=visible)
  assert lip_sync.mouth_correlation([hidden]) == pytest.approx(1.0)
  shown = with_(clip, measured=wrong)
  assert number(lip_sync.mouth_correlation([shown])) < 0.9


@pytest.mark.parametrize("lag", [-3, 0, 2])
def test_mouth_that_follows_loudness_is_found_at_any_lag_and_power(clips, lag):
  following = []
  for clip in clips:
    level = np.random.default_rng(len(following)).random(FRAMES) + 0.01
    truth = np.roll(level**0.5, lag)[None].astype(np.float32)
    following.append(
      with_(clip, truth=truth, loudness=level.astype(np.float32))
    )
  assert number(lip_sync.loudness_correlation(following)) > 0.95


def test_shuffled_loudness_says_little(clips):
  many = [*clips, *(talker(seed) for seed in range(8, 24))]
  rng = np.random.default_rng(0)
  shuffled = [with_(c, loudness=rng.permutation(c.loudness)) for c in many]
  said = number(lip_sync.loudness_correlation(many))
  assert number(lip_sync.loudness_correlation(shuffled)) < min(0.3, said)


def test_loudness_setting_is_one_for_the_whole_set(clips):
  """Two clips that want opposite lags can't both be served."""
  level = np.random.default_rng(0).random(FRAMES).astype(np.float32)
  early, late = (
    with_(c, truth=np.roll(level, lag)[None], loudness=level)
    for c, lag in zip(clips, (-3, 3), strict=False)
  )
  assert number(lip_sync.loudness_correlation([early])) > 0.9
  assert number(lip_sync.loudness_correlation([early, late])) < 0.8


def closed_clip(loudness: float, opening: float) -> Mouths:
  """Frames 10..19 are m: `loudness` of the loud level, `opening` measured."""
  clip = talker(0)
  viseme = np.full((1, FRAMES), 2, np.uint8)
  viseme[:, 10:20] = CLOSED
  level = np.ones(FRAMES, np.float32)
  level[10:20] = loudness
  measured = np.ones((1, FRAMES), np.float32)
  measured[:, 10:20] = opening
  return with_(clip, viseme=viseme, loudness=level, measured=measured)


def test_open_mouth_on_a_loud_m_is_wrong_and_a_shut_one_right():
  assert lip_sync.viseme_closed_accuracy([closed_clip(0.8, 0.0)]) == 1.0
  assert lip_sync.viseme_closed_accuracy([closed_clip(0.8, 0.9)]) == 0.0


def test_quiet_m_is_not_asked():
  assert lip_sync.viseme_closed_accuracy([closed_clip(0.01, 0.9)]) is None


def test_rest_is_asked_in_pauses_of_speech_and_all_through_text_only_clips():
  clip = talker(0)
  level = np.ones(FRAMES, np.float32)
  level[:12] = 0
  viseme = np.where(np.arange(FRAMES)[None] < 12, REST, 2).astype(np.uint8)
  measured = np.ones((1, FRAMES), np.float32)
  measured[:, :9] = 0
  pausing = with_(clip, loudness=level, viseme=viseme, measured=measured)
  assert lip_sync.rest_in_silence([pausing]) == 0.75

  mute = with_(
    clip,
    loudness=np.zeros(FRAMES, np.float32),
    speaker=np.full(FRAMES, -1, np.int32),
    viseme=np.zeros((1, FRAMES), np.uint8),
  )
  still = with_(mute, measured=np.zeros((1, FRAMES), np.float32))
  babbling = with_(mute, measured=np.ones((1, FRAMES), np.float32))
  assert lip_sync.rest_in_silence([still]) == 1.0
  assert lip_sync.rest_in_silence([still, babbling]) == 0.5


def test_listener_who_mouths_along_is_counted():
  clip = talker(0, people=2)
  assert lip_sync.listener_at_rest([clip]) == 1.0
  along = with_(clip, measured=np.ones((2, FRAMES), np.float32))
  assert lip_sync.listener_at_rest([along]) == 0.0


@pytest.mark.parametrize(
  "score",
  [
    lip_sync.mouth_correlation,
    lip_sync.swapped_correlation,
    lip_sync.loudness_correlation,
    lip_sync.viseme_closed_accuracy,
    lip_sync.rest_in_silence,
    lip_sync.listener_at_rest,
  ],
)
def test_nothing_to_measure_is_none(score):
  assert score([]) is None


def test_loudness_has_one_value_per_frame_at_any_rate():
  sound = np.concatenate([np.zeros(16_000), np.ones(16_000)])
  level = lip_sync.loudness(sound, sample_rate=16_000, fps=24, frames=49)
  assert level.shape == (49,)
  np.testing.assert_array_equal(level[:24], 0)
  np.testing.assert_allclose(level[24:48], 1)
  assert level[48] == 0  # Past the end of the sound.
  empty = lip_sync.loudness(np.zeros(0), sample_rate=16_000, fps=24, frames=5)
  np.testing.assert_array_equal(empty, np.zeros(5))


def test_mouths_of_differing_shapes_are_refused():
  with pytest.raises(ValueError, match="clip_0"):
    with_(talker(0), truth=np.zeros((2, FRAMES), np.float32))
