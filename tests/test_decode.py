from fractions import Fraction

import av
import numpy as np
import pytest

from mocha_jax import decode

RATE = 48_000


def sounds(*pieces: tuple[float, int]) -> decode.Sounds:
  """Lay out a ramp in pieces: the moment in seconds, the samples of each."""
  sink, count = decode.Sounds(), 0
  for start, samples in pieces:
    ramp = np.arange(count, count + samples, dtype=np.float32)[None]
    frame = av.AudioFrame.from_ndarray(ramp, format="fltp", layout="mono")
    frame.sample_rate, frame.time_base = RATE, Fraction(1, 1_000_000)
    frame.pts = round(start * 1_000_000)
    sink.add(frame)
    count += samples
  return sink


def laid_out(sink: decode.Sounds, start: Fraction | None) -> np.ndarray:
  found = sink.finish(start)
  assert found is not None and found[1] == RATE
  return found[0]


def test_rounded_stamps_leave_no_gap():
  rng = np.random.default_rng(0)
  starts = np.arange(9) * 1024 / RATE + rng.uniform(0, 0.001, 9) * (0, *[1] * 8)
  sound = laid_out(sounds(*((start, 1024) for start in starts)), None)
  np.testing.assert_array_equal(sound, np.arange(9 * 1024))


@pytest.mark.parametrize("start", [Fraction(0), Fraction(1, 100), Fraction(-1)])
def test_sound_starts_with_the_first_picture(start):
  sound = laid_out(sounds((0, 1024), (1024 / RATE, 1024)), start)
  first = round(-start * RATE)  # Where the sound's own first sample belongs.
  wanted = np.pad(np.arange(2048)[max(0, -first) :], (max(0, first), 0))
  np.testing.assert_array_equal(sound, wanted)


def test_sound_that_ends_before_the_first_picture_is_empty():
  assert len(laid_out(sounds((0, 1024)), Fraction(1))) == 0


def test_what_overlaps_is_heard_once():
  sound = laid_out(sounds((0, 1024), (512 / RATE, 1024)), None)
  np.testing.assert_array_equal(sound, [*range(512), *range(1024, 2048)])


def test_a_lost_frame_of_sound_is_refused():
  sink = sounds((0, 1024), (2048 / RATE, 1024))
  with pytest.raises(
    ValueError, match=r"broken: 0\.021 s of sound are missing"
  ):
    sink.finish(None)


def test_a_change_of_rate_is_refused():
  sink = sounds((0, 1024))
  frame = av.AudioFrame.from_ndarray(
    np.zeros((1, 8), np.float32), format="fltp", layout="mono"
  )
  frame.sample_rate = 44_100
  with pytest.raises(ValueError, match="changes from 48000 to 44100"):
    sink.add(frame)


@pytest.mark.parametrize(
  ("format", "values"),
  [
    ("u8", np.array([[128, 192, 0, 0]], np.uint8)),
    ("s16", np.array([[0, 2**14, -(2**15), -(2**15)]], np.int16)),
    ("s32p", np.array([[0, -(2**31)], [2**30, -(2**31)]], np.int32)),
    ("dblp", np.array([[0, -1.0], [0.5, -1.0]])),
  ],
)
def test_every_kind_of_sample_is_mixed_to_the_same(format, values):
  frame = av.AudioFrame.from_ndarray(values, format=format, layout="stereo")
  frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
  sink = decode.Sounds()
  sink.add(frame)
  np.testing.assert_array_equal(laid_out(sink, None), [0.25, -1])
