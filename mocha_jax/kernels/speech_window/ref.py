"""Speech-video window attention in plain jnp, published and collapsed.

  k_j = rot_j norm((s_j + e_j) Wk)    v_j = (s_j + e_j) Wv

are the keys and values of the R speech tokens j in the window of latent frame
f; e_j is a learned vector and rot_j a fixed rotation per slot, if there are.
Published (MoCha, section 3.2): project, attend, project back,

  out[f, hw] = sum_n sum_j softmax_j(x[f, hw] Wq_n·k_jn / sqrt(H)) v_jn Wo_n

The same function collapsed, with Wq and Wo folded into the speech:

  K'_jn = Wq_n k_jn / sqrt(H)         V'_jn = v_jn Wo_n
  out[f, hw] = sum_n sum_j softmax_j(x[f, hw]·K'_jn) V'_jn
"""

import dataclasses
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mocha_jax.kernels.speech_window.geometry import Geometry

EPSILON = 1e-6


@typing.no_type_check  # A tree map may put anything in the fields.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
  """The four projections, the scale of the norm on keys, a vector per slot.

  A norm's scale of H numbers stands for a norm over each head, one of N x H
  for a norm over all heads together. The fields after `slots` are for
  checkpoints of other models: with one of them nothing can be folded.
  """

  query: Float[Array, "D N H"]
  key: Float[Array, "E N H"]
  value: Float[Array, "E N H"]
  out: Float[Array, "N H D"]
  key_norm: Float[Array, "H"] | Float[Array, "N H"] | None
  slots: Float[Array, "R E"] | None
  query_norm: Float[Array, "H"] | Float[Array, "N H"] | None = None
  query_bias: Float[Array, "N H"] | None = None
  key_bias: Float[Array, "N H"] | None = None
  value_bias: Float[Array, "N H"] | None = None
  out_bias: Float[Array, "D"] | None = None


def slot_rotation(width: int, head: int) -> Float[Array, "R H2"]:
  """Return the RoPE angle of each slot, measured from the window's middle."""
  position = jnp.arange(width) - (width - 1) / 2
  frequency = 10_000.0 ** (-jnp.arange(head // 2) / (head // 2))
  return position[:, None] * frequency


def rotate(
  x: Float[Array, "*B P N H"], angle: Float[Array, "P H2"]
) -> Float[Array, "*B P N H"]:
  """Rotate the pairs (x[i], x[i + H/2]) of each position by its angles."""
  first, second = jnp.split(x, 2, axis=-1)
  cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
  return jnp.concatenate(
    [first * cos - second * sin, first * sin + second * cos], axis=-1
  )


def _wide(dtype) -> jnp.dtype:
  """Return the type of the islands: float32, or more where x has more."""
  return jnp.promote_types(dtype, jnp.float32)


def _to_heads(x: Array, kernel: Array, bias: Array | None) -> Array:
  """Return x W + b, from [... D] to wide [... N H]."""
  y = jnp.einsum(
    "...D,DNH->...NH",
    x,
    kernel.astype(x.dtype),
    preferred_element_type=_wide(x.dtype),
  )
  return y if bias is None else y + bias


def _norm(x: Array, scale: Array | None) -> Array:
  """Return x / rms(x) * scale, over the axes that the scale has."""
  if scale is None:
    return x
  axes = tuple(range(-scale.ndim, 0))
  mean = jnp.mean(x**2, axis=axes, keepdims=True)
  return x * jax.lax.rsqrt(mean + EPSILON) * scale


def project_speech(
  speech: Float[Array, "B S E"],
  weights: Weights,
  geometry: Geometry,
  frames: int,
) -> tuple[Float[Array, "B f R N H"], Float[Array, "B f R N H"]]:
  """Return the keys, float32, and the values of every window's tokens.

  Each token is projected once, however many windows hold it; slots, being
  added before linear maps, are projected by themselves.

  Raises:
    ValueError: the weights have slots without the geometry, or the reverse.
  """
  if (geometry.order == "slots") != (weights.slots is not None):
    raise ValueError(
      f"order={geometry.order!r} and weights.slots "
      f"{'missing' if weights.slots is None else 'given'}: order='slots' goes "
      "with slots, no other does"
    )
  index, _ = geometry.windows(frames, speech.shape[1])

  def windows(kernel, bias):
    y = _to_heads(speech, kernel, bias)[:, index]
    if weights.slots is None:
      return y
    return y + _to_heads(weights.slots.astype(speech.dtype), kernel, None)

  key = _norm(windows(weights.key, weights.key_bias), weights.key_norm)
  if geometry.order == "rope":
    key = rotate(key, slot_rotation(geometry.width, key.shape[-1]))
  value = windows(weights.value, weights.value_bias)
  return key, value.astype(speech.dtype)


def project_video(
  x: Float[Array, "B f hw D"], weights: Weights
) -> Float[Array, "B f hw N H"]:
  """Return the query of every video token."""
  query = _to_heads(x, weights.query, weights.query_bias)
  return _norm(query, weights.query_norm).astype(x.dtype)


def masked_softmax(scores: Array, mask: Array | np.ndarray, axis: int) -> Array:
  """Return the softmax along an axis over what the mask has; of nothing, 0."""
  scores = jnp.where(mask, scores, -jnp.inf)
  peak = jnp.max(scores, axis=axis, keepdims=True, initial=-1e30)
  weight = jnp.where(mask, jnp.exp(scores - jax.lax.stop_gradient(peak)), 0)
  total = jnp.sum(weight, axis=axis, keepdims=True)
  return weight / jnp.maximum(total, EPSILON)  # The largest weight is 1.


def attend_heads(
  query: Float[Array, "B f hw N H"],
  key: Float[Array, "B f R N H"],
  value: Float[Array, "B f R N H"],
  out: Float[Array, "N H D"],
  mask: Bool[Array | np.ndarray, "f #hw R"],
) -> Float[Array, "B f hw D"]:
  """Attend to the window and project back, summed over the heads given."""
  scores = jnp.einsum(
    "BfpNH,BfRNH->BfNpR",
    query,
    key.astype(query.dtype),
    preferred_element_type=_wide(query.dtype),
  )
  scores /= math.sqrt(query.shape[-1])
  weight = masked_softmax(scores, mask[:, None], axis=-1)
  mixed = jnp.einsum("BfNpR,BfRNH->BfpNH", weight.astype(value.dtype), value)
  return jnp.einsum("BfpNH,NHD->BfpD", mixed, out.astype(mixed.dtype))


def add_bias(
  y: Float[Array, "B f hw D"], weights: Weights
) -> Float[Array, "B f hw D"]:
  """Add the bias of the output projection, if there is one."""
  if weights.out_bias is None:
    return y
  return y + weights.out_bias.astype(y.dtype)


def projected_window_attention(
  x: Float[Array, "B f hw D"],
  speech: Float[Array, "B S E"],
  weights: Weights,
  geometry: Geometry,
) -> Float[Array, "B f hw D"]:
  """Attend each video token to its frame's window, as published.

  A token whose window holds no speech token gets 0 (and the output's bias).
  """
  _, mask = geometry.windows(x.shape[1], speech.shape[1])
  key, value = project_speech(speech, weights, geometry, x.shape[1])
  query = project_video(x, weights)
  y = attend_heads(query, key, value, weights.out, mask[:, None])
  return add_bias(y, weights)


def dense_window_attention(
  x: Float[Array, "B f hw D"],
  speech: Float[Array, "B S E"],
  weights: Weights,
  geometry: Geometry,
) -> Float[Array, "B f hw D"]:
  """Attend each video token to all S speech tokens under a window mask.

  How attention that knows no windows computes the published form.

  Raises:
    NotImplementedError: an order, which gives a token several keys.
  """
  if geometry.order != "none":
    raise NotImplementedError(
      f"order={geometry.order!r}: a token's key depends on the window that it "
      "is in, so there is no one key per token; use projected_window_attention"
    )
  frames, tokens = x.shape[1], speech.shape[1]
  index, valid = geometry.windows(frames, tokens)
  mask = np.zeros((frames, tokens), bool)
  for frame in range(frames):
    mask[frame, index[frame, valid[frame]]] = True
  key = _to_heads(speech, weights.key, weights.key_bias)
  value = _to_heads(speech, weights.value, weights.value_bias)
  # The clip is one frame of all its tokens, its speech one window.
  y = attend_heads(
    project_video(x, weights).reshape(
      x.shape[0], 1, -1, *weights.query.shape[1:]
    ),
    _norm(key, weights.key_norm)[:, None],
    value.astype(speech.dtype)[:, None],
    weights.out,
    # Not by numpy: as a constant it is large, and compilers compute with it.
    jnp.repeat(jnp.asarray(mask), x.shape[2], axis=0)[None],
  )
  return add_bias(y.reshape(x.shape), weights)


def fold(
  speech: Float[Array, "B S E"],
  weights: Weights,
  geometry: Geometry,
  frames: int,
) -> tuple[Float[Array, "B f R N D"], Float[Array, "B f R N D"]]:
  """Return K' and V' of every window."""
  key, value = project_speech(speech, weights, geometry, frames)
  key = (key / math.sqrt(key.shape[-1])).astype(speech.dtype)
  return (
    jnp.einsum("BfRNH,DNH->BfRND", key, weights.query.astype(key.dtype)),
    jnp.einsum("BfRNH,NHD->BfRND", value, weights.out.astype(value.dtype)),
  )


def windowed_attention(
  x: Float[Array, "B f hw D"],
  key: Float[Array, "B f R N D"],
  value: Float[Array, "B f R N D"],
  mask: Bool[Array | np.ndarray, "f R"],
) -> Float[Array, "B f hw D"]:
  """Attend each video token to K' and V' of its frame, summed over heads.

  The softmax is in float32 and over the R slots of a head, of which the mask
  says which hold a token; a token whose window holds none gets 0.
  """
  scores = jnp.einsum(
    "BfpD,BfRND->BfpRN", x, key, preferred_element_type=_wide(x.dtype)
  )
  weight = masked_softmax(scores, mask[:, None, :, None], axis=-2)
  return jnp.einsum("BfpRN,BfRND->BfpD", weight.astype(value.dtype), value)
