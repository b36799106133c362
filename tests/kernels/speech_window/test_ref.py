import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax.kernels.speech_window import ref
from mocha_jax.kernels.speech_window.geometry import Geometry
from tests import numerics

B, FRAMES, PLACES, D, N, H = 2, 3, 4, 16, 2, 8
ORDERS = ("none", "slots", "rope")


def geometry(**changes) -> Geometry:
  given: dict[str, Any] = dict(ratio=4, causal=False, edge="clip", order="none")
  return Geometry(**given | changes)


def inputs(of: Geometry, tokens: int = 4 * FRAMES):
  keys = jax.random.split(jax.random.key(0), 7)
  draw = lambda i, *shape: jax.random.normal(keys[i], shape)
  weights = ref.Weights(
    query=draw(0, D, N, H) / 4,
    key=draw(1, D, N, H) / 4,
    value=draw(2, D, N, H) / 4,
    out=draw(3, N, H, D) / 4,
    key_norm=jnp.linspace(0.5, 2, H),
    slots=draw(4, of.width, D) if of.order == "slots" else None,
  )
  x, speech = draw(5, B, FRAMES, PLACES, D), draw(6, B, tokens, D)
  return x, speech, weights


def attend_one(x, tokens, weights):
  """Attend one video token to tokens, written out for one head at a time."""
  out = np.zeros(D)
  for n in range(N):
    query = x @ weights.query[:, n]
    key = tokens @ weights.key[:, n]
    key = key / np.sqrt(np.mean(key**2, axis=-1, keepdims=True) + ref.EPSILON)
    scores = (key * weights.key_norm) @ query / np.sqrt(H)
    weight = np.exp(scores - scores.max())
    weight /= weight.sum()
    out += weight @ (tokens @ weights.value[:, n]) @ weights.out[n]
  return out


@pytest.mark.parametrize("causal", [False, True])
def test_equals_attention_written_out(causal):
  of = geometry(causal=causal)
  x, speech, weights = inputs(of, 9 if causal else 12)
  got = ref.projected_window_attention(x, speech, weights, of)
  x, speech, weights = jax.tree.map(np.asarray, (x, speech, weights))
  index, valid = of.windows(FRAMES, speech.shape[1])
  for b, f, p in np.ndindex(B, FRAMES, PLACES):
    tokens = speech[b, index[f][valid[f]]]
    want = attend_one(x[b, f, p], tokens, weights)
    numerics.assert_close(got[b, f, p], want, jnp.float32, reduced=D)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("edge", ["clip", "shift"])
@pytest.mark.parametrize("causal", [False, True])
def test_speech_outside_window_has_zero_gradient(order, edge, causal):
  of = geometry(order=order, edge=edge, causal=causal)
  x, speech, weights = inputs(of, 9 if causal else 12)

  def of_frame(speech):
    out = ref.projected_window_attention(x, speech, weights, of)
    return out[0].sum((1, 2))  # One number per latent frame.

  jacobian = jax.jacobian(of_frame)(speech)[:, 0]  # [f S D]
  influence = np.abs(jacobian).sum(-1) > 0
  index, valid = of.windows(FRAMES, speech.shape[1])
  want = np.zeros_like(influence)
  for frame in range(FRAMES):
    want[frame, index[frame][valid[frame]]] = True
  np.testing.assert_array_equal(influence, want)


@pytest.mark.parametrize("order", ORDERS)
def test_only_an_order_tells_the_tokens_of_a_window_apart(order):
  of = geometry(order=order)
  x, speech, weights = inputs(of)
  # Frame 1 sees tokens 3..8, of which 5 and 6 are seen by it alone.
  swapped = speech.at[:, 5].set(speech[:, 6]).at[:, 6].set(speech[:, 5])
  apply = lambda s: ref.projected_window_attention(x, s, weights, of)[:, 1]
  moved = float(jnp.abs(apply(speech) - apply(swapped)).max())
  if order == "none":
    numerics.assert_close(apply(swapped), apply(speech), jnp.float32, D)
  else:
    assert moved > 1e-3


def test_zero_slots_change_nothing():
  x, speech, weights = inputs(geometry(order="slots"))
  assert weights.slots is not None
  zero = jnp.zeros_like(weights.slots)
  numerics.assert_same(
    ref.projected_window_attention(
      x, speech, dataclasses.replace(weights, slots=zero), geometry()
    ),
    ref.projected_window_attention(
      x, speech, dataclasses.replace(weights, slots=None), geometry()
    ),
  )


def test_token_without_speech_in_its_window_returns_zero():
  of = geometry()
  x, speech, weights = inputs(of, tokens=4)  # Windows 2 and on lie outside.
  out = ref.projected_window_attention(x, speech, weights, of)
  assert float(jnp.abs(out[:, 0]).max()) > 0
  np.testing.assert_array_equal(out[:, 2], 0)


def test_zero_speech_is_the_same_vector_for_every_video_token():
  of = geometry()
  x, speech, weights = inputs(of)
  constant = jnp.broadcast_to(speech[:, :1], speech.shape)
  out = ref.projected_window_attention(x, constant, weights, of)
  numerics.assert_close(
    out, jnp.broadcast_to(out[:, :1, :1], out.shape), jnp.float32, D
  )
