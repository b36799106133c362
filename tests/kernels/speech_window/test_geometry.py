import numpy as np
import pytest

from tests.speech_inputs import geometry


def test_plain_window_is_the_frames_of_a_latent_and_one_on_either_side():
  index, valid = geometry().windows(3, 12)
  np.testing.assert_array_equal(index[1], [3, 4, 5, 6, 7, 8])
  assert valid[1].all()


def test_causal_window_is_the_frames_of_a_latent_and_one_on_either_side():
  # Latent 2 holds frames 5..8; latent 0 holds frame 0 alone.
  index, valid = geometry(causal=True).windows(4, 13)
  np.testing.assert_array_equal(index[2], [4, 5, 6, 7, 8, 9])
  assert valid[2].all()
  np.testing.assert_array_equal(index[0][valid[0]], [0, 1])


def test_clip_masks_what_lies_outside_the_speech():
  index, valid = geometry().windows(3, 12)
  np.testing.assert_array_equal(valid[0], [False] + [True] * 5)
  np.testing.assert_array_equal(valid[2], [True] * 5 + [False])
  assert index.min() == 0 and index.max() == 11


def test_shift_keeps_a_full_window_at_the_ends():
  index, valid = geometry(edge="shift").windows(3, 12)
  assert valid.all()
  np.testing.assert_array_equal(index[0], range(6))
  np.testing.assert_array_equal(index[2], range(6, 12))


@pytest.mark.parametrize(("causal", "tokens"), [(False, 13), (True, 12)])
def test_length_off_the_grid_is_refused_with_the_right_one(causal, tokens):
  with pytest.raises(ValueError, match="4k"):
    geometry(causal=causal).frames(tokens)


def test_lengths_on_both_grids():
  assert geometry().frames(128) == 32
  assert geometry(causal=True).frames(125) == 32
  assert geometry(causal=True).frames(129) == 33


@pytest.mark.parametrize("ratio", [4, 8])
@pytest.mark.parametrize("causal", [False, True])
def test_each_frame_of_speech_is_in_the_window_of_its_latent(ratio, causal):
  of = geometry(ratio=ratio, causal=causal)
  tokens = 3 * ratio + causal
  index, valid = of.windows(of.frames(tokens), tokens)
  for token in range(tokens):
    latent = (token + ratio - 1) // ratio if causal else token // ratio
    assert token in index[latent][valid[latent]]


def test_speech_that_ends_early_leaves_windows_empty():
  index, valid = geometry().windows(4, 6)
  np.testing.assert_array_equal(index[1][valid[1]], [3, 4, 5])
  assert not valid[2:].any() and index.max() == 5


def test_speech_that_goes_on_is_not_heard():
  index, valid = geometry().windows(2, 30)
  np.testing.assert_array_equal(index[1], range(3, 9))
  assert valid[1].all() and index.max() == 8


def test_window_wider_than_all_speech_holds_all_of_it():
  for edge in ("clip", "shift"):
    index, valid = geometry(edge=edge, ratio=8).windows(1, 3)
    np.testing.assert_array_equal(index[0][valid[0]], range(3))
