from typing import Any

import numpy as np
import pytest

from mocha_jax.kernels.speech_window.geometry import Geometry


def geometry(**changes) -> Geometry:
  given: dict[str, Any] = dict(ratio=4, causal=False, edge="clip", order="none")
  return Geometry(**given | changes)


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
