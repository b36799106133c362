import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _encoders
from mocha_jax import encoders
from mocha_jax.encoders import wav2vec2
from tests import frozen_encoders, numerics

RATE = 16_000


@pytest.fixture(scope="module")
def section(tmp_path_factory):
  folder = tmp_path_factory.mktemp("wav2vec2")
  return frozen_encoders.with_weights(frozen_encoders.WAV2VEC2, folder)


@pytest.fixture(scope="module")
def encoder(section):
  return frozen_encoders.make(section)


def noise(seconds, seed=0):
  samples = round(seconds * RATE)
  rng = np.random.default_rng(seed)
  return rng.normal(0.1, 0.2, samples).astype(np.float32)


def test_there_is_a_vector_of_all_layers_for_every_frame(encoder):
  for fps, frames in ((24, 12), (12.5, 5)):
    made = encoder(noise(0.5), sample_rate=RATE, fps=fps, frames=frames)
    assert made.shape == (frames, 2 * 12)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
  assert encoder.width == 24


def test_preset_has_the_width_that_the_paper_says():
  base = encoders.make_speech_encoder(_encoders.wav2vec2_base())
  assert base.width == 9216


def test_clip_does_not_depend_on_those_beside_it(encoder):
  sounds = [noise(0.5), noise(0.2, 1), noise(0.9, 2)]
  given = dict(sample_rate=RATE, fps=24, frames=12)
  together = encoder.many(sounds, **given)
  apart = np.stack([encoder(sound, **given) for sound in sounds])
  numerics.assert_same(together, apart)


def test_sound_beyond_the_frames_is_not_heard(encoder):
  given = dict(sample_rate=RATE, fps=24, frames=12)
  long = noise(2.0)
  numerics.assert_same(encoder(long, **given), encoder(long[:8000], **given))


def test_loudness_and_offset_do_not_matter():
  sound = noise(0.5)
  got = wav2vec2.prepared(3 * sound + 1, RATE, 8000)
  numerics.assert_close(
    got, wav2vec2.prepared(sound, RATE, 8000), np.float32, 8000
  )
  assert abs(got.mean()) < 1e-4
  assert abs(got.std() - 1) < 1e-4


def test_short_sound_ends_in_silence_and_silence_stays_silent():
  got = wav2vec2.prepared(noise(0.1), RATE, 8000)
  assert abs(got[:1600].std() - 1) < 1e-4
  assert not got[1600:].any()
  assert not wav2vec2.prepared(np.zeros(99), RATE, 99).any()


def test_sound_is_normed_alike_within_a_program():
  lengths = np.array([0, 1600, 8000], np.int32)
  sounds = np.stack([noise(0.5, seed) for seed in range(3)])
  want = [
    wav2vec2.prepared(sound[:length], RATE, 8000)
    for sound, length in zip(sounds, lengths, strict=True)
  ]
  got = wav2vec2.normed(jnp.asarray(sounds), jnp.asarray(lengths))
  numerics.assert_close(got, np.stack(want), np.float32, 8000)


def test_interpolation_happens_where_the_config_says(section, encoder):
  """Each in its place: what it makes differs, but not where nothing is left
  to be interpolated."""
  after = frozen_encoders.make(section | dict(interpolate="after"))
  given = dict(sample_rate=RATE, fps=48)
  sound = noise(0.5)
  # 8,000 samples: (8000 - 400) // 320 + 1 = 24 vectors.
  same = [x(sound, **given, frames=24) for x in (encoder, after)]
  assert same[0].shape == same[1].shape == (24, 24)
  numerics.assert_same(same[0], same[1])
  other = [
    x(sound, sample_rate=RATE, fps=24, frames=12) for x in (encoder, after)
  ]
  assert np.abs(other[0] - other[1]).max() > 1e-2


def test_encoder_that_was_sent_or_released_reads_its_weights_again(encoder):
  given = dict(sample_rate=RATE, fps=24, frames=12)
  want = encoder(noise(0.5), **given)
  sent = pickle.loads(pickle.dumps(encoder))
  assert "params" not in sent.__dict__
  numerics.assert_same(sent(noise(0.5), **given), want)
  encoders.release([encoder])
  assert "params" not in encoder.__dict__
  numerics.assert_same(encoder(noise(0.5), **given), want)


def test_stereo_and_too_little_sound_are_refused(encoder):
  with pytest.raises(ValueError, match="must be mono"):
    encoder(np.zeros((99, 2)), sample_rate=RATE, fps=24, frames=12)
  with pytest.raises(ValueError, match=r"1 frames at 48 fps last 333 .* 400"):
    encoder(noise(1), sample_rate=RATE, fps=48, frames=1)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(weights=""), "'wav2vec2' needs its weights"),
    (dict(weights="/nowhere"), "'wav2vec2': /nowhere: no such file"),
    (dict(layers=3), r"missing encoder.layers.2.attention.q_proj.weight"),
    (dict(layers=1), r"extra encoder.layers.1.attention.q_proj.weight"),
    (dict(ffn=24), r"misshapen .*intermediate_dense.weight: \(20, 12\)"),
  ],
)
def test_files_that_do_not_fit_are_refused(section, changes, message):
  changed = {k: v for k, v in changes.items() if k == "weights"}
  sizes = {k: v for k, v in changes.items() if k != "weights"}
  encoder = frozen_encoders.make(
    section | changed | dict(sizes=section["sizes"] | sizes)
  )
  with pytest.raises(ValueError, match=message):
    encoders.check_files([encoder])


@pytest.mark.parametrize(
  "sizes, message",
  [
    (dict(heads=5), "width=12 must be a multiple of heads=5"),
    (dict(strides=(5,)), "must have one number each per convolution"),
    (dict(layers=0), "layers=0 must be above 0"),
  ],
)
def test_sizes_are_checked(section, sizes, message):
  with pytest.raises(ValueError, match=message):
    frozen_encoders.make(section | dict(sizes=section["sizes"] | sizes))
