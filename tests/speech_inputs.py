"""Random speech, video and weights for speech-video window attention."""

from typing import Any

import jax
import jax.numpy as jnp

from mocha_jax.kernels.speech_window import ref
from mocha_jax.kernels.speech_window.geometry import Geometry
from mocha_jax.kernels.speech_window.shapes import Shape


def geometry(**changes) -> Geometry:
  given: dict[str, Any] = dict(ratio=4, causal=False, edge="clip", order="none")
  return Geometry(**given | changes)


def shape(**changes) -> Shape:
  """Sizes at which a Jacobian is small."""
  given: dict[str, Any] = dict(
    name="test",
    batch=2,
    frames=3,
    tokens=4,
    width=16,
    heads=2,
    head=8,
    ratio=4,
    causal=False,
    itemsize=4,
  )
  return Shape(**given | changes)


def draw(seed: int, *size: int, dtype: Any = jnp.float32) -> jax.Array:
  """Return normal numbers, the same ones in every type."""
  return jax.random.normal(jax.random.key(seed), size, jnp.float32).astype(
    dtype
  )


def make_weights(
  of: Shape, order: str, *, dtype: Any = jnp.float32, imported: bool = False
) -> ref.Weights:
  """Return weights with which scores and outputs are about as large as 1.

  imported: with all the norms and biases of other models' checkpoints.
  """
  d, n, h = of.width, of.heads, of.head
  heads = lambda seed: draw(seed, n, h, dtype=dtype) / 4 if imported else None
  return ref.Weights(
    query=draw(0, d, n, h, dtype=dtype) / d**0.5,
    key=draw(1, d, n, h, dtype=dtype) / d**0.5,
    value=draw(2, d, n, h, dtype=dtype) / d**0.5,
    out=draw(3, n, h, d, dtype=dtype) / (n * h) ** 0.5,
    key_norm=jnp.linspace(0.5, 2, h, dtype=dtype),
    slots=draw(4, of.slots, d, dtype=dtype) if order == "slots" else None,
    query_norm=jnp.linspace(2, 0.5, h, dtype=dtype) if imported else None,
    query_bias=heads(5),
    key_bias=heads(6),
    value_bias=heads(7),
    out_bias=draw(8, d, dtype=dtype) if imported else None,
  )


def make_inputs(
  of: Shape, tokens: int | None = None, *, dtype: Any = jnp.float32
) -> tuple[jax.Array, jax.Array]:
  """Return video tokens [B f hw D] and speech [B S D]."""
  video = draw(9, of.batch, of.frames, of.tokens, of.width, dtype=dtype)
  speech = of.speech if tokens is None else tokens
  return video, draw(10, of.batch, speech, of.width, dtype=dtype)
