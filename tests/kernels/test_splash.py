import math

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu

from mocha_jax.kernels import splash
from tests import numerics

V5P = "TPU v5"


@pytest.fixture
def interpreted():
  """Let Pallas kernels run on the CPU."""
  # `True` is the plain interpreter; the other one knows no vmapped kernels.
  with pltpu.force_tpu_interpret_mode(True):  # pyright: ignore
    yield


def plain(query, key, value, mask):
  """Attention, its scores written out."""
  scores = jnp.einsum("BTNH,BSNH->BNTS", query, key)
  scores /= math.sqrt(query.shape[-1])
  if mask is not None:
    scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
  weight = jax.nn.softmax(scores, axis=-1)
  return jnp.einsum("BNTS,BSNH->BTNH", weight, value)


@pytest.mark.parametrize(
  ("tokens", "keys", "masked"),
  [(128, 128, False), (200, 200, False), (24, 140, True)],
  ids=["whole blocks", "padded", "masked keys"],
)
@pytest.mark.usefixtures("interpreted")
def test_kernel_is_attention_and_so_are_its_gradients(tokens, keys, masked):
  key = jax.random.split(jax.random.key(0), 5)
  q, given = (jax.random.normal(k, (2, tokens, 2, 16)) for k in key[:2])
  k, v = (jax.random.normal(k, (2, keys, 2, 16)) for k in key[2:4])
  mask = jax.random.bernoulli(key[4], 0.7, (2, keys)) if masked else None

  def kernel(q, k, v):
    return splash.attend(q, k, v, mask, device_kind=V5P, name="attention")

  def both(attend):
    out, pull = jax.vjp(attend, q, k, v)
    return out, pull(given)

  got = jax.jit(lambda: both(kernel))()
  want = both(lambda q, k, v: plain(q, k, v, mask))
  numerics.assert_close(got, want, jnp.float32, keys)


@pytest.mark.parametrize(
  ("frames", "per_frame", "cost"),
  [
    (32, 2048, 1.0),  # 1,024 x 512 pixels
    (32, 2112, 1.0),  # 768 x 704
    (32, 2013, 1.0189),  # 976 x 528: 64,416 tokens become 64,512 by 65,536
    (33, 2013, 1.0194),  # 66,429 become 66,560 by 67,584
    (32, 2025, 1.0228),  # 720 x 720: 65,536 by 65,536
  ],
)
def test_padding_costs_what_is_stated(frames, per_frame, cost):
  got = splash.cost(frames * per_frame, 128, V5P)
  assert got == pytest.approx(cost, abs=5e-5)


@pytest.mark.parametrize("tokens", [1, 100, 128, 768, 2049, 66_429, 64_800])
def test_padding_is_whole_blocks_and_at_most_a_sixteenth_or_one_lane(tokens):
  length, block = splash.padded(tokens, 2048)
  assert length >= tokens and length % block == 0 and block % 128 == 0
  assert length <= tokens * 17 / 16 or length - tokens < 128


def test_blocks_of_a_generation_divide_one_another():
  for kind, head, sizes in splash.BLOCKS:
    assert splash.blocks(kind, head) == sizes
    assert sizes.key % sizes.compute == 0
    assert sizes.key_back % min(sizes.compute_back, sizes.key_back) == 0


def test_heads_wider_than_tried_are_refused():
  with pytest.raises(NotImplementedError, match=r"heads of 1024.*xla"):
    splash.blocks(V5P, 1024)
