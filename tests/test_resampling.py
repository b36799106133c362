"""Sound at another rate."""

import numpy as np
import pytest

from mocha_jax.resampling import resample

RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 44_101, 48_000]


def sine(frequency, rate, seconds=0.5):
  moments = np.arange(int(rate * seconds)) / rate
  return np.sin(2 * np.pi * frequency * moments)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("wanted", [16_000, 48_000])
def test_tones_below_half_of_both_rates_stay(rate, wanted):
  highest = 0.45 * min(rate, wanted)
  for frequency in (100, highest / 3, highest):
    got = resample(sine(frequency, rate), rate, wanted)
    want = sine(frequency, wanted, len(got) / wanted)
    inside = slice(len(got) // 4, -len(got) // 4)
    np.testing.assert_allclose(got[inside], want[inside], atol=1e-6)


def test_tones_that_the_new_rate_lacks_go():
  got = resample(sine(8_500, 48_000), 48_000, 16_000)
  assert np.abs(got[1000:-1000]).max() < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3, 100, 44_100])
@pytest.mark.parametrize(
  ("rate", "wanted"), [(44_100, 16_000), (8_000, 48_000)]
)
def test_there_are_as_many_samples_as_the_sound_lasts(count, rate, wanted):
  got = resample(np.ones(count), rate, wanted)
  assert got.shape == (-(-count * wanted // rate),)
  assert got.dtype == np.float32


def test_what_has_the_rate_or_no_sample_stays():
  sound = np.array([0.1, -0.2], np.float32)
  np.testing.assert_array_equal(resample(sound, 16_000, 16_000), sound)
  assert resample(sound[:0], 44_100, 16_000).shape == (0,)
