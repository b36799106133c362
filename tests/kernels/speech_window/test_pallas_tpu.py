"""What the TPU kernel does that the other implementations do not.

That it computes what they compute is held in test_api.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mocha_jax.kernels.speech_window import pallas_tpu, ref, tiling
from tests import numerics
from tests.speech_inputs import draw


@pytest.fixture(autouse=True)
def interpreted():
  with pltpu.force_tpu_interpret_mode(True):  # pyright: ignore
    yield


def make_inputs(batch, frames, tokens, heads, *, slots=6, dtype=jnp.float32):
  """Return x, K', V', a mask with a window that holds nothing, a cotangent."""
  width = 128
  size = (batch, frames, slots, heads, width)
  mask = np.ones((frames, slots), bool)
  mask[0, 0] = mask[-1, -2:] = False
  if frames > 1:
    mask[1] = False
  return (
    draw(0, batch, frames, tokens, width, dtype=dtype) * 3,
    (draw(1, *size) / width**0.5).astype(dtype),
    (draw(2, *size) / heads**0.5).astype(dtype),
    jnp.asarray(mask),
    draw(3, batch, frames, tokens, width, dtype=dtype),
  )


def both(attend, x, key, value, mask, cotangent):
  out, pull = jax.vjp(lambda *given: attend(*given, mask), x, key, value)
  x, key, value = pull(cotangent)
  return dict(out=out, x=x, key=key, value=value)


def kernel(inputs, **fused):
  attend = lambda *args: pallas_tpu.windowed_attention(*args, **fused)
  return jax.jit(lambda *args: both(attend, *args))(*inputs)


def reference(inputs, epsilon=None, residual=0.0):
  def attend(x, key, value, mask):
    y = x
    if epsilon is not None:
      y *= jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon)
    return residual * x + ref.windowed_attention(y, key, value, mask)

  x, key, value, mask, cotangent = inputs
  x, key, value, cotangent = (
    y.astype(jnp.float32) for y in (x, key, value, cotangent)
  )
  with jax.default_matmul_precision("highest"):
    return both(attend, x, key, value, mask, cotangent)


def check(got, inputs, **fused):
  dtype = got["out"].dtype
  x, key = inputs[:2]
  longest = max(*x.shape[2:], key.shape[2] * key.shape[3])
  reduced = longest if dtype == jnp.float32 else 1
  numerics.assert_close(got, reference(inputs, **fused), dtype, reduced)


@pytest.mark.parametrize(
  ("batch", "frames", "tokens", "heads"),
  [
    (1, 4, 300, 8),  # Frames meet in blocks; cut in two on such a block.
    (3, 7, 45, 3),  # Several frames in a block, rows filled up to tiles.
    (2, 1, 600, 12),  # Clips of one frame, the last block ragged.
  ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_frames_that_meet_in_a_block(batch, frames, tokens, heads, dtype):
  inputs = make_inputs(batch, frames, tokens, heads, dtype=dtype)
  check(kernel(inputs), inputs)


@pytest.mark.parametrize("residual", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fused_norm_and_residual(residual, dtype):
  inputs = make_inputs(1, 4, 70, 3, dtype=dtype)
  fused = dict(epsilon=1e-2, residual=residual)
  check(kernel(inputs, **fused), inputs, **fused)


def test_window_that_holds_nothing_is_exactly_nothing():
  got = kernel(make_inputs(1, 4, 70, 3))
  for name, y in got.items():
    assert not np.any(y[:, 1]), name
    assert np.all(np.any(y[:, 2], axis=-1)), name


def test_a_head_has_a_maximum_of_its_own():
  x, key, value, mask, cotangent = make_inputs(1, 3, 20, 4)
  # Scores of one head so high that, less its maximum, others would vanish.
  key = key.at[:, :, :, 0].set(100.0)
  inputs = (x, key, value, mask, cotangent)
  got, want = kernel(inputs), reference(inputs)
  compared = lambda y: dict(out=y["out"], value=y["value"])
  numerics.assert_close(compared(got), compared(want), jnp.float32, 128)


def test_cutting_a_clip_changes_no_bit():
  once = make_inputs(1, 4, 70, 8)
  x, key, value, mask, cotangent = once
  twice = [jnp.tile(y, (2, *[1] * (y.ndim - 1))) for y in (x, key, value)]
  alone = kernel(once)
  shared = kernel((*twice, mask, jnp.tile(cotangent, (2, 1, 1, 1))))
  assert pallas_tpu.plan(x, key).forward.parts == 2
  assert pallas_tpu.plan(*twice[:2]).forward.parts == 1
  for clip in (0, 1):
    numerics.assert_same(
      alone, jax.tree.map(lambda y, at=clip: y[at : at + 1], shared)
    )


def test_heads_that_have_no_room_at_once_are_halved(monkeypatch):
  inputs = make_inputs(1, 3, 20, 12)
  fused = dict(epsilon=1e-6, residual=1.0)
  monkeypatch.setattr(tiling, "VMEM", 600_000)
  x, key = inputs[:2]
  assert not pallas_tpu.plan(x, key).backward.fits(4)
  assert pallas_tpu.plan(x, key[:, :, :, :8]).backward.fits(4)
  check(kernel(inputs, **fused), inputs, **fused)


def test_kernel_maps_over_further_axes():
  inputs = make_inputs(2, 3, 20, 3)
  mapped = jax.vmap(both, in_axes=(None, 0, 0, 0, None, 0))
  split = [y if y.dtype == bool else y[:, None] for y in inputs]
  got = mapped(pallas_tpu.windowed_attention, *split)
  check(jax.tree.map(lambda y: y[:, 0], got), inputs)


def test_kernel_maps_over_masks():
  x, key, value, mask, cotangent = make_inputs(1, 3, 20, 3)
  attend = lambda mask: both(
    pallas_tpu.windowed_attention, x, key, value, mask, cotangent
  )
  masks = jnp.stack([mask, ~mask])
  got = jax.vmap(attend)(masks)
  for i, one in enumerate(masks):
    inputs = (x, key, value, one, cotangent)
    check(jax.tree.map(lambda y, at=i: y[at], got), inputs)


def test_backward_pass_computes_no_scores():
  """With remat, p is made again; without, the forward pass keeps it."""
  inputs = make_inputs(1, 3, 20, 3)
  attend = pallas_tpu.windowed_attention
  counts = {
    remat: str(jax.make_jaxpr(lambda *a, f=f: both(f, *a))(*inputs)).count(
      "pallas_call["
    )
    for remat, f in ((False, attend), (True, jax.checkpoint(attend)))
  }
  assert counts == {False: 2, True: 3}


def test_what_has_no_room_is_refused(monkeypatch):
  monkeypatch.setattr(tiling, "VMEM", 10**5)
  with pytest.raises(NotImplementedError, match="2 heads, 128 wide, have no"):
    kernel(make_inputs(1, 3, 20, 2))


def test_window_of_more_slots_than_bits_is_refused():
  with pytest.raises(NotImplementedError, match="32 slots in a window"):
    kernel(make_inputs(1, 3, 20, 1, slots=32))


def test_types_that_differ_are_refused():
  x, *others = make_inputs(1, 3, 20, 1)
  with pytest.raises(ValueError, match="bfloat16, float32: must be of one"):
    kernel((x.astype(jnp.bfloat16), *others))
