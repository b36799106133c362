import dataclasses
import re

import numpy as np
import pytest

from mocha_jax import codecs
from mocha_jax.codecs import linear
from tests import numerics

CONFIG = linear.CodecConfig(
  name="linear",
  time=4,
  space=8,
  channels=12,
  causal=False,
  motion_weight=1.0,
  color_weights=(1.0, 1.0, 1.0),
)


def make_clip(seed, frames=16, height=24, width=32):
  """A square that moves over a gradient, with some noise."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  clip = np.empty((frames, height, width, 3), np.uint8)
  for f in range(frames):
    clip[f] = 60 + 2 * x[..., None] + y[..., None] * rng.integers(1, 3)
    top, left = (seed + f) % (height - 8), (3 * f) % (width - 8)
    clip[f, top : top + 8, left : left + 8] = [200, 40 + f, 90]
  return clip + rng.integers(0, 4, clip.shape, np.uint8)


def fitted(**changes):
  config = dataclasses.replace(CONFIG, **changes)
  frames = 17 if config.causal else 16
  return linear.fit(config, (make_clip(seed, frames) for seed in range(6)))


def mean_square(codec, clip):
  error = codec.decode(codec.encode(clip)).astype(float) - clip
  return float(np.square(error).mean())


def test_basis_is_orthonormal():
  basis = fitted().basis.astype(np.float64)
  numerics.assert_close(basis.T @ basis, np.eye(12), np.float32, 768)


def test_training_latents_have_zero_mean_and_unit_mean_square():
  codec = fitted()
  latents = np.stack([codec.encode(make_clip(seed)) for seed in range(6)])
  mean = latents.mean((0, 1, 2, 3), dtype=np.float64)
  numerics.assert_close(mean, np.zeros(12), np.float32, 768)
  numerics.assert_close(np.square(latents).mean(), 1, np.float32, 768)


def test_no_basis_of_the_same_width_loses_less():
  codec = fitted()
  clips = np.stack([make_clip(seed) for seed in range(6)])

  def loss(basis):
    other = dataclasses.replace(codec, basis=basis.astype(np.float32))
    return mean_square(other, clips)

  rng = np.random.default_rng(0)
  best = loss(codec.basis)
  for size in (0.01, 0.1, 1.0):
    step = size * rng.normal(size=codec.basis.shape)
    assert best < loss(np.linalg.qr(codec.basis + step)[0])


def test_more_channels_lose_less_and_all_lose_nothing():
  clip = make_clip(0, frames=8, height=16, width=16)
  losses = []
  for channels in (1, 4, 16, 48):
    config = dataclasses.replace(CONFIG, space=2, channels=channels)
    codec = linear.fit(config, [make_clip(seed) for seed in range(4)])
    losses.append(mean_square(codec, clip))
  assert losses == sorted(losses, reverse=True)
  assert losses[-1] == 0


@pytest.mark.parametrize(
  "causal, frames, latents",
  [(False, 4, 1), (False, 48, 12), (True, 1, 1), (True, 5, 2), (True, 49, 13)],
)
def test_grid_of_latents(causal, frames, latents):
  codec = fitted(causal=causal)
  clip = make_clip(1, frames)
  encoded = codec.encode(clip)
  assert encoded.shape == codec.latent_shape(frames, 24, 32)
  assert encoded.shape == (latents, 3, 4, 12)
  assert encoded.dtype == np.float32
  assert codec.decode(encoded).shape == clip.shape


@pytest.mark.parametrize("causal", [False, True])
def test_latent_sees_its_own_frames_alone(causal):
  codec = fitted(causal=causal)
  clip = make_clip(2, frames=17 if causal else 16)
  encoded = codec.encode(clip)
  for frame in range(len(clip)):
    changed = clip.copy()
    changed[frame] ^= 64
    moved = np.abs(codec.encode(changed) - encoded).max((1, 2, 3)) > 0
    owner = -(-frame // 4) if causal else frame // 4
    np.testing.assert_array_equal(np.flatnonzero(moved), [owner])


def test_causal_latent_0_is_frame_0_repeated():
  codec = fitted(causal=True)
  plain = dataclasses.replace(
    codec, config=dataclasses.replace(codec.config, causal=False)
  )
  clip = make_clip(3, frames=9)
  repeated = np.concatenate([np.repeat(clip[:1], 4, axis=0), clip[1:]])
  np.testing.assert_array_equal(codec.encode(clip), plain.encode(repeated))


@pytest.mark.parametrize("causal", [False, True])
def test_batch_equals_its_clips(causal):
  codec = fitted(causal=causal)
  clips = np.stack([make_clip(seed, 8 + causal) for seed in range(3)])
  encoded = codec.encode(clips)
  decoded = codec.decode(encoded)
  for clip, latents, frames in zip(clips, encoded, decoded, strict=True):
    numerics.assert_close(latents, codec.encode(clip), np.float32, 768)
    assert np.abs(frames.astype(int) - codec.decode(latents)).max() <= 1


def test_second_pass_loses_nothing_more():
  codec = fitted()
  once = codec.decode(codec.encode(make_clip(0)))
  twice = codec.decode(codec.encode(once))
  # What is left is the rounding of pixels to whole numbers.
  assert np.abs(twice.astype(int) - once).max() <= 1


def test_fit_is_bitwise_repeatable_and_ignores_the_order_of_clips():
  clips = [make_clip(seed) for seed in range(6)]
  a, b = linear.fit(CONFIG, clips), linear.fit(CONFIG, clips[::-1])
  np.testing.assert_array_equal(a.encode(clips[0]), b.encode(clips[0]))


def test_saved_codec_is_the_same(tmp_path):
  codec = fitted(causal=True)
  codec.save(tmp_path / "codec.npz")
  loaded = codecs.load(tmp_path / "codec.npz")
  assert [path.name for path in tmp_path.iterdir()] == ["codec.npz"]
  assert (loaded.time, loaded.space, loaded.channels, loaded.causal) == (
    4,
    8,
    12,
    True,
  )
  clip = make_clip(0, frames=9)
  latents = codec.encode(clip)
  np.testing.assert_array_equal(loaded.encode(clip), latents)
  np.testing.assert_array_equal(loaded.decode(latents), codec.decode(latents))


def test_other_files_are_refused(tmp_path):
  path = tmp_path / "codec.npz"
  with pytest.raises(ValueError, match="no codec file"):
    codecs.load(path)
  for content in (b"something else", b""):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no codec"):
      codecs.load(path)
  np.savez(path, config=np.array([{"a": 1}], dtype=object))
  with pytest.raises(ValueError, match="is no codec"):
    codecs.load(path)


@pytest.mark.parametrize(
  "causal, size, message",
  [
    (False, (46, 64, 64), "frames=46 must be a multiple of 4 for the codec: "
     "44 or 48"),
    (False, (2, 64, 64), "a multiple of 4 for the codec: 4"),
    (True, (48, 64, 64), "1 + a multiple of 4 for the codec: 45 or 49"),
    (False, (48, 60, 64), "height=60 must be a multiple of 8 for the codec: "
     "56 or 64"),
    (False, (48, 64, 68), "width=68 must be a multiple of 8"),
  ],
)  # fmt: skip
def test_size_that_does_not_divide_names_those_that_do(causal, size, message):
  codec = fitted(causal=causal)
  with pytest.raises(ValueError, match=re.escape(message)):
    codec.encode(np.zeros((*size, 3), np.uint8))


def test_wrong_channels_are_refused():
  with pytest.raises(ValueError, match="5 channels; this codec has 12"):
    fitted().decode(np.zeros((1, 2, 2, 5), np.float32))


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(time=0), "time=0 must be at least 1"),
    (dict(channels=769), "at most 768"),
  ],
)
def test_config_is_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **changes)


def test_clips_without_content_are_refused():
  with pytest.raises(ValueError, match="no clip"):
    linear.fit(CONFIG, [])
  with pytest.raises(ValueError, match="one colour"):
    linear.fit(CONFIG, [np.full((4, 8, 8, 3), 9, np.uint8)])


def test_weights_of_motion_are_those_of_what_changes():
  weights = dataclasses.replace(CONFIG, motion_weight=3.0).weights
  still = np.tile(np.random.default_rng(0).normal(size=192), 4)
  moving = np.concatenate([still[:192], -still[:192]] * 2)
  numerics.assert_close(weights @ still, still, np.float64, 768)
  numerics.assert_close(weights @ moving, 3 * moving, np.float64, 768)


def test_weights_of_colors_are_those_of_ohta_axes():
  weights = dataclasses.replace(CONFIG, color_weights=(1.0, 2.0, 5.0)).weights
  for axis, weight in (((1, 1, 1), 1), ((1, 0, -1), 2), ((-1, 2, -1), 5)):
    block = np.tile(np.array(axis, np.float64), 256)
    numerics.assert_close(weights @ block, weight * block, np.float64, 768)


def test_all_channels_lose_nothing_whatever_the_weights():
  codec = fitted(
    space=2, channels=48, motion_weight=3.0, color_weights=(1.0, 2.0, 5.0)
  )
  clip = make_clip(7)
  error = codec.decode(codec.encode(clip)).astype(int) - clip
  assert np.abs(error).max() <= 1  # Rounding to whole numbers.


def test_weighted_colour_is_kept_better():
  # A small dot that blinks in magenta, on a picture that moves in grey.
  rng = np.random.default_rng(0)

  def clip():
    frames = rng.integers(0, 255, (16, 24, 32, 1)).repeat(3, axis=-1)
    frames[::3, 4:6, 4:6] = [230, 0, 230]
    return frames.astype(np.uint8)

  clips = [clip() for _ in range(6)]

  def error_of_dot(**weights):
    codec = linear.fit(dataclasses.replace(CONFIG, **weights), clips)
    shown = codec.decode(codec.encode(clips[0])).astype(float)
    return np.square(shown - clips[0])[::3, 4:6, 4:6].mean()

  plain = error_of_dot()
  assert error_of_dot(color_weights=(1.0, 1.0, 30.0)) < 0.8 * plain


@pytest.mark.parametrize(
  "weights", [dict(motion_weight=0.0), dict(color_weights=(1.0, 0.0, 1.0))]
)
def test_weights_must_be_above_zero(weights):
  with pytest.raises(ValueError, match="must be above 0"):
    dataclasses.replace(CONFIG, **weights)
