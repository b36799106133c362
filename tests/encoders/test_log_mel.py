import numpy as np
import pytest

from mocha_jax import encoders
from tests import numerics

FPS, RATE = 24, 16_000


def make(mels=32, hops_per_frame=4):
  return encoders.make_speech_encoder(
    dict(name="log_mel", mels=mels, hops_per_frame=hops_per_frame)
  )


def loudest(encoded, hops=4):
  """Index of the hop with the most energy, counted from the clip's start."""
  return encoded.reshape(-1, encoded.shape[1] // hops).sum(1).argmax()


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("hop", [0, 1, 26, 47, 95])
def test_click_lands_in_its_frame_and_hop(rate, hop):
  samples = np.zeros(rate, np.float32)
  samples[round((hop + 0.5) / (4 * FPS) * rate)] = 1
  encoded = make()(samples, sample_rate=rate, fps=FPS, frames=FPS)
  assert encoded.shape == (24, 128)
  assert loudest(encoded) == hop


def test_pitch_rises_with_the_band():
  seconds = np.arange(RATE) / RATE
  bands = []
  for pitch in (200, 500, 1500, 4000, 7000):
    tone = (0.5 * np.sin(2 * np.pi * pitch * seconds)).astype(np.float32)
    encoded = make(hops_per_frame=1)(
      tone, sample_rate=RATE, fps=FPS, frames=FPS
    )
    bands.append(encoded[12].argmax())
  assert bands == sorted(set(bands))


def test_frame_hears_its_own_time_and_half_a_window_more():
  samples = np.zeros(RATE, np.float32)
  encoder = make()
  quiet = encoder(samples, sample_rate=RATE, fps=FPS, frames=FPS)
  samples[RATE // 2 :][: RATE // FPS] = 1  # Frame 12.
  loud = encoder(samples, sample_rate=RATE, fps=FPS, frames=FPS)
  moved = np.flatnonzero(np.abs(loud - quiet).max(1) > 0)
  np.testing.assert_array_equal(moved, [11, 12, 13])


def test_short_sound_is_padded_with_silence_and_long_sound_is_cut():
  noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32) / 4
  encoder = make()
  padded = encoder(noise, sample_rate=RATE, fps=FPS, frames=48)
  whole = encoder(noise, sample_rate=RATE, fps=FPS, frames=24)
  cut = encoder(noise, sample_rate=RATE, fps=FPS, frames=5)
  silence = encoder(noise[:0], sample_rate=RATE, fps=FPS, frames=1)[0]
  numerics.assert_close(padded[:23], whole[:23], np.float32, 257)
  numerics.assert_close(whole[:5], cut, np.float32, 257)
  np.testing.assert_array_equal(padded[25:], np.tile(silence, (23, 1)))


def test_silence_is_far_from_no_speech():
  silence = make()(np.zeros(9), sample_rate=RATE, fps=FPS, frames=3)
  assert silence.max() < -1.5
  assert silence.dtype == np.float32


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_sample_rate_hardly_matters(rate):
  def tone(rate):
    seconds = np.arange(rate) / rate
    sweep = 200 * seconds + 600 * seconds**2
    return 0.3 * np.sin(2 * np.pi * sweep)

  encoder = make(mels=16)
  want = encoder(tone(RATE), sample_rate=RATE, fps=FPS, frames=24)
  got = encoder(tone(rate), sample_rate=rate, fps=FPS, frames=24)
  heard = want > 0  # Bands well above the floor.
  assert heard.mean() > 0.05
  assert np.abs(got - want)[1:-1][heard[1:-1]].max() < 0.1


def test_stereo_is_refused():
  with pytest.raises(ValueError, match="must be mono"):
    make()(np.zeros((100, 2)), sample_rate=RATE, fps=FPS, frames=4)


@pytest.mark.parametrize(
  "config, message",
  [
    (dict(mels=32), "config.speech_encoder.name is missing"),
    (dict(name="log_mle"), 'log_mle.*nearest is "log_mel"'),
    (dict(name="log_mel", mels=0, hops_per_frame=4), "mels=0 must be 1..128"),
    (dict(name="log_mel", mels=8), "hops_per_frame is missing"),
  ],
)
def test_config_is_checked(config, message):
  with pytest.raises(ValueError, match=message):
    encoders.make_speech_encoder(config)
