import av
import numpy as np
import pytest

from mocha_jax.evaluation import strip


def clip(seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (9, 16, 12, 3), dtype=np.uint8)


def test_strip_shows_first_and_last_frame_of_every_clip():
  clips = [clip(0), clip(1)]
  image = strip.strip(clips, 3, gap=2)
  assert image.shape == (16 + 2 + 16, 12 * 3 + 2 * 2, 3)
  for row, frames in enumerate(clips):
    band = image[row * 18 : row * 18 + 16]
    np.testing.assert_array_equal(band[:, :12], frames[0])
    np.testing.assert_array_equal(band[:, -12:], frames[-1])
  assert (image[16:18] == 255).all()


def test_strip_of_nothing_is_refused():
  with pytest.raises(ValueError, match="0 clips"):
    strip.strip([], 3)


def test_png_is_read_back_bit_by_bit(tmp_path):
  image = strip.enlarge(strip.strip([clip(0)], 4), 2)
  strip.write_png(tmp_path / "strip.png", image)
  with av.open(str(tmp_path / "strip.png"), "r") as file:
    frame = next(file.decode(video=0))
  np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), image)
