"""Speech-video window attention as published: project, attend, project back.

  q = x Wq    k_j = rot_j norm((s_j + e_j) Wk)    v_j = (s_j + e_j) Wv
  out[f, hw] = sum_j softmax_j(q[f, hw]·k[f, j] / sqrt(H)) v[f, j] Wo

over the R speech tokens j in the window of latent frame f.
"""

import dataclasses
import math
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mocha_jax.kernels.speech_window.geometry import Geometry

EPSILON = 1e-6


@typing.no_type_check  # A tree map may put anything in the fields.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
  """The four projections, the scale of the norm on keys, a vector per slot."""

  query: Float[Array, "D N H"]
  key: Float[Array, "D N H"]
  value: Float[Array, "D N H"]
  out: Float[Array, "N H D"]
  key_norm: Float[Array, "H"]
  slots: Float[Array, "R D"] | None


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


def project_window_speech(
  speech: Float[Array, "B S D"],
  weights: Weights,
  geometry: Geometry,
  frames: int,
) -> tuple[Float[Array, "B f R N H"], Float[Array, "B f R N H"]]:
  """Return the keys (fp32) and values of every window's tokens."""
  index, _ = geometry.windows(frames, speech.shape[1])
  tokens = speech[:, index]
  if weights.slots is not None:
    tokens = tokens + weights.slots.astype(tokens.dtype)
  cast = lambda w: w.astype(tokens.dtype)
  key = jnp.einsum("BfRD,DNH->BfRNH", tokens, cast(weights.key))
  key = key.astype(jnp.float32)
  key *= jax.lax.rsqrt(jnp.mean(key**2, axis=-1, keepdims=True) + EPSILON)
  key *= weights.key_norm
  if geometry.order == "rope":
    key = rotate(key, slot_rotation(geometry.width, key.shape[-1]))
  return key, jnp.einsum("BfRD,DNH->BfRNH", tokens, cast(weights.value))


def projected_window_attention(
  x: Float[Array, "B f hw D"],
  speech: Float[Array, "B S D"],
  weights: Weights,
  geometry: Geometry,
) -> Float[Array, "B f hw D"]:
  """Attend each video token to the speech in the window of its frame.

  A token whose window holds no speech token returns 0.
  """
  key, value = project_window_speech(speech, weights, geometry, x.shape[1])
  query = jnp.einsum("BfpD,DNH->BfpNH", x, weights.query.astype(x.dtype))
  scores = jnp.einsum(
    "BfpNH,BfRNH->BfNpR",
    query,
    key.astype(x.dtype),
    preferred_element_type=jnp.float32,
  )
  _, valid = geometry.windows(x.shape[1], speech.shape[1])
  valid = valid[:, None, None]  # [f 1 1 R]
  scores = jnp.where(valid, scores / math.sqrt(query.shape[-1]), -jnp.inf)
  peak = jnp.max(scores, axis=-1, keepdims=True, initial=-1e30)
  weight = jnp.where(valid, jnp.exp(scores - peak), 0)
  weight /= jnp.maximum(weight.sum(-1, keepdims=True), EPSILON)
  out = jnp.einsum("BfNpR,BfRNH->BfpNH", weight.astype(x.dtype), value)
  return jnp.einsum("BfpNH,NHD->BfpD", out, weights.out.astype(x.dtype))
