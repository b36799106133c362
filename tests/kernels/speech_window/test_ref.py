import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax.kernels.speech_window import ref
from tests import numerics
from tests.speech_inputs import draw, geometry, make_inputs, make_weights, shape

ORDERS = ("none", "slots", "rope")
SHAPE = shape()
D, N, H = SHAPE.width, SHAPE.heads, SHAPE.head


def collapsed(x, speech, weights, of):
  """The collapsed form, from the same arguments as the published one."""
  key, value = ref.fold(speech, weights, of, x.shape[1])
  _, mask = of.windows(x.shape[1], speech.shape[1])
  return ref.windowed_attention(x, key, value, mask)


def value_and_gradients(form, of, *, dtype, tokens=None):
  """The output, and the gradients by name of its product with something."""
  x, speech = make_inputs(SHAPE, tokens, dtype=dtype)
  weights = make_weights(SHAPE, of.order, dtype=dtype)
  cotangent = draw(11, *x.shape, dtype=dtype)

  def loss(given):
    out = form(given["x"], given["speech"], given["weights"], of)
    return jnp.vdot(out, cotangent), out

  given = dict(x=x, speech=speech, weights=weights)
  gradients, out = jax.jit(jax.grad(loss, has_aux=True))(given)
  return dict(result=out, **gradients)


def attend_one(x, tokens, weights):
  """Attend one video token to tokens, written out for one head at a time."""
  norm = lambda y: (
    y / np.sqrt(np.mean(y**2, axis=-1, keepdims=True) + ref.EPSILON)
  )
  out = np.zeros(D) if weights.out_bias is None else weights.out_bias
  for n in range(N):
    query = x @ weights.query[:, n]
    key = tokens @ weights.key[:, n]
    value = tokens @ weights.value[:, n]
    if weights.query_norm is not None:
      query = norm(query + weights.query_bias[n]) * weights.query_norm
      key, value = key + weights.key_bias[n], value + weights.value_bias[n]
    key = norm(key) * weights.key_norm
    scores = key @ query / np.sqrt(H)
    weight = np.exp(scores - scores.max())
    weight /= weight.sum()
    out = out + weight @ value @ weights.out[n]
  return out


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_attention_written_out(causal, imported):
  of, sizes = geometry(causal=causal), shape(causal=causal)
  x, speech = make_inputs(sizes)
  weights = make_weights(sizes, of.order, imported=imported)
  got = ref.projected_window_attention(x, speech, weights, of)
  x, speech, weights = jax.tree.map(np.asarray, (x, speech, weights))
  index, valid = of.windows(sizes.frames, sizes.speech)
  for b, f, p in np.ndindex(sizes.batch, sizes.frames, sizes.tokens):
    tokens = speech[b, index[f][valid[f]]]
    want = attend_one(x[b, f, p], tokens, weights)
    numerics.assert_close(got[b, f, p], want, jnp.float32, reduced=D)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("edge", ["clip", "shift"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_collapsed_equals_published(dtype, order, edge, causal):
  of = geometry(order=order, edge=edge, causal=causal)
  with jax.enable_x64(dtype == "float64"):
    want = value_and_gradients(
      ref.projected_window_attention, of, dtype=dtype, tokens=9
    )
    got = value_and_gradients(collapsed, of, dtype=dtype, tokens=9)
    assert {str(x.dtype) for x in jax.tree.leaves(got)} == {dtype}
    numerics.assert_close(got, want, dtype, reduced=64)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_equals_gathered(dtype, causal):
  of = geometry(causal=causal)
  with jax.enable_x64(dtype == "float64"):
    want = value_and_gradients(
      ref.projected_window_attention, of, dtype=dtype, tokens=10
    )
    got = value_and_gradients(
      ref.dense_window_attention, of, dtype=dtype, tokens=10
    )
    numerics.assert_close(got, want, dtype, reduced=64)


def test_dense_refuses_an_order():
  of = geometry(order="rope")
  with pytest.raises(NotImplementedError, match="rope"):
    ref.dense_window_attention(
      *make_inputs(SHAPE), make_weights(SHAPE, "rope"), of
    )


def test_norm_over_all_heads_is_not_one_over_each():
  of = geometry()
  _, speech = make_inputs(SHAPE)
  each = make_weights(SHAPE, "none")

  def keys(norm):
    weights = dataclasses.replace(each, key_norm=norm)
    return ref.project_speech(speech, weights, of, SHAPE.frames)[0]

  key, raw = keys(jnp.ones((N, H))), keys(None)
  numerics.assert_close(
    key,
    raw / jnp.sqrt(jnp.mean(raw**2, axis=(-2, -1), keepdims=True)),
    jnp.float32,
    reduced=N * H,
  )


@pytest.mark.parametrize("order", ["none", "slots"])
def test_slots_and_order_that_do_not_go_together_are_refused(order):
  of = geometry(order="slots" if order == "none" else "none")
  with pytest.raises(ValueError, match="slots"):
    ref.projected_window_attention(
      *make_inputs(SHAPE), make_weights(SHAPE, order), of
    )


def test_zero_slots_change_nothing():
  x, speech = make_inputs(SHAPE)
  weights = make_weights(SHAPE, "none")
  zero = dataclasses.replace(weights, slots=jnp.zeros((SHAPE.slots, D)))
  numerics.assert_same(
    ref.projected_window_attention(x, speech, zero, geometry(order="slots")),
    ref.projected_window_attention(x, speech, weights, geometry()),
  )


@pytest.mark.parametrize("order", ORDERS)
def test_only_an_order_tells_the_tokens_of_a_window_apart(order):
  of = geometry(order=order)
  x, speech = make_inputs(SHAPE)
  weights = make_weights(SHAPE, order)
  # Frame 1 sees tokens 3..8, of which 5 and 6 are seen by it alone.
  swapped = speech.at[:, 5].set(speech[:, 6]).at[:, 6].set(speech[:, 5])
  apply = lambda s: ref.projected_window_attention(x, s, weights, of)[:, 1]
  moved = float(jnp.abs(apply(speech) - apply(swapped)).max())
  if order == "none":
    numerics.assert_close(apply(swapped), apply(speech), jnp.float32, D)
  else:
    assert moved > 1e-3
