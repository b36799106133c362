"""A walk over a clip's blocks: what is visited, in which order, by whom."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax.kernels.speech_window import tiling
from mocha_jax.kernels.speech_window.tiling import Tiling

CLIPS = pytest.mark.parametrize(
  ("frames", "tokens", "block"),
  [
    (32, 2025, 256),  # Blocks and frames meet anyhow.
    (4, 512, 256),  # Frames are whole blocks.
    (5, 7, 16),  # Several frames in a block, on the cut too.
    (3, 5, 15),  # One block.
    (1, 40, 16),  # One frame cannot be cut.
  ],
)


def cut(frames: int, tokens: int, block: int, batch: int = 1) -> Tiling:
  array = lambda *size: jax.ShapeDtypeStruct(size, jnp.bfloat16)
  return Tiling.of(
    array(batch, frames, tokens, 128), array(batch, frames, 6, 8, 128), block
  )


def rows(visits: np.ndarray, part: int) -> list[dict[str, int]]:
  names = ("frame", "block", "owned", "ours")
  return [
    dict(zip(names, map(int, visit), strict=True))
    for visit in visits[:, part].T
  ]


@CLIPS
def test_gradients_of_every_token_are_summed_once(frames, tokens, block):
  sizes = cut(frames, tokens, block)
  summed = np.zeros((frames, tokens), int)
  visits = sizes.visits()
  for part in range(sizes.parts):
    for visit in rows(visits, part):
      if visit["ours"]:
        assert visit["owned"] == visit["frame"]
        at = np.arange(tokens) + visit["frame"] * tokens
        summed[visit["frame"]] += at // sizes.block == visit["block"]
  np.testing.assert_array_equal(summed, 1)


@CLIPS
def test_last_to_write_a_token_is_its_own_frame(frames, tokens, block):
  sizes = cut(frames, tokens, block)
  visits = sizes.visits()
  for part in range(sizes.parts):
    writer = {}
    for visit in rows(visits, part):
      start = visit["block"] * sizes.block
      stop = min(start + sizes.block, sizes.length)
      for token in range(max(start, visit["frame"] * tokens), stop):
        writer[token] = visit["frame"]
    assert writer == {token: token // tokens for token in writer}
    # Blocks leave whole, so whoever visits one writes all of it.
    blocks = {visit["block"] for visit in rows(visits, part)}
    held = np.isin(np.arange(sizes.length) // sizes.block, list(blocks))
    assert len(writer) == held.sum()


@CLIPS
def test_parts_write_all_tokens(frames, tokens, block):
  sizes = cut(frames, tokens, block)
  blocks = set(sizes.visits()[tiling.BLOCK].flat)
  assert blocks == set(range(-(-sizes.length // sizes.block)))


@CLIPS
def test_blocks_and_frames_are_moved_once(frames, tokens, block):
  sizes = cut(frames, tokens, block)
  visits = sizes.visits()
  for part in range(sizes.parts):
    for what in (tiling.FRAME, tiling.BLOCK, tiling.OWNED):
      runs = [key for key, _ in itertools.groupby(visits[what, part])]
      assert len(runs) == len(set(runs)), "left and visited again"


def test_clips_of_an_even_batch_are_not_cut():
  assert cut(4, 9, 16, batch=1).parts == 2
  assert cut(4, 9, 16, batch=2).parts == 1


@pytest.mark.parametrize(
  ("kind", "width"),
  [
    ("TPU v5 lite", 128),
    ("TPU v5", 128),
    ("TPU v6 lite", 256),
    ("TPU7x", 256),
    (None, 256),
  ],
)
def test_matrix_unit_is_known_by_the_kind_of_device(kind, width):
  assert tiling.matrix_unit(kind) == width
