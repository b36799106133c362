"""Attention between token sequences, with a norm per head on q and k."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mocha_jax import sharding
from mocha_jax.models.layers import HeadNorm, weight


def attend(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B S N H"],
  value: Float[Array, "B S N H"],
  mask: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B T N H"]:
  """Return softmax(query·key / sqrt(H)) @ value, with the softmax in fp32.

  mask is True on the tokens of the key that are there.
  """
  if mask is not None:
    mask = mask[:, None, None, :]
  return jax.nn.dot_product_attention(query, key, value, mask=mask)


def to_heads(
  x: Float[Array, "B T D"], kernel: Float[Array, "D N H"]
) -> Float[Array, "B T N H"]:
  """Project to heads, in the type of x."""
  return jnp.einsum("BTD,DNH->BTNH", x, kernel.astype(x.dtype))


def from_heads(
  x: Float[Array, "B T N H"], kernel: Float[Array, "N H D"]
) -> Float[Array, "B T D"]:
  """Project back from heads, in the type of x."""
  return jnp.einsum("BTNH,NHD->BTD", x, kernel.astype(x.dtype))


class Attention(nnx.Module):
  """Multi-head attention of x to context (to itself without one)."""

  def __init__(self, width: int, heads: int, head: int, *, rngs: nnx.Rngs):
    sizes = dict(D=width, N=heads, H=head)
    self.query = weight(rngs, "D N H", sizes)
    self.key = weight(rngs, "D N H", sizes)
    self.value = weight(rngs, "D N H", sizes)
    self.out = weight(rngs, "N H D", sizes)
    self.query_norm = HeadNorm(head)
    self.key_norm = HeadNorm(head)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    context: Float[Array, "B S D"] | None = None,
    mask: Bool[Array, "B S"] | None = None,
  ) -> Float[Array, "B T D"]:
    context = x if context is None else context
    query = self.query_norm(to_heads(x, self.query[...]))
    key = self.key_norm(to_heads(context, self.key[...]))
    value = to_heads(context, self.value[...])
    query, key, value = (
      sharding.constrain(y, "B T N H") for y in (query, key, value)
    )
    return from_heads(attend(query, key, value, mask), self.out[...])
