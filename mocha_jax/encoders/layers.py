"""What the frozen transformers share: attention of a sequence, and an MLP."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mocha_jax.models.layers import Linear, weight

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]

ACTIVATIONS = {
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "silu": jax.nn.silu,
}


class SelfAttention(nnx.Module):
  """softmax(scale q k^T + offsets) v of a sequence; the softmax in fp32."""

  def __init__(
    self,
    sizes: dict[str, int],
    *,
    scale: float,
    biased: bool,
    rngs: nnx.Rngs,
  ):
    self.scale = scale
    make = lambda: weight(rngs, "D N H", sizes)
    self.query, self.key, self.value = make(), make(), make()
    self.out = weight(rngs, "N H D", sizes)
    zeros = lambda *letters: nnx.Param(
      jnp.zeros([sizes[letter] for letter in letters]),
      letters=" ".join(letters),
    )
    self.query_bias = zeros("N", "H") if biased else None
    self.key_bias = zeros("N", "H") if biased else None
    self.value_bias = zeros("N", "H") if biased else None
    self.out_bias = zeros("D") if biased else None

  def __call__(
    self,
    x: Float[Array, "B L D"],
    *,
    offsets: Float[Array, "1 N L L"] | None = None,
    mask: Bool[Array, "#B 1 #L L"] | None = None,
  ) -> Float[Array, "B L D"]:
    """Return what every token takes from those that the mask lets it see."""
    query, key, value = (
      _add(jnp.einsum("bld,dnh->blnh", x, kernel[...].astype(x.dtype)), bias)
      for kernel, bias in (
        (self.query, self.query_bias),
        (self.key, self.key_bias),
        (self.value, self.value_bias),
      )
    )
    y = jax.nn.dot_product_attention(
      query, key, value, offsets, mask, scale=self.scale
    )
    out = self.out[...].astype(x.dtype)
    return _add(jnp.einsum("blnh,nhd->bld", y, out), self.out_bias)


def _add(x: Array, bias: nnx.Param | None) -> Array:
  return x if bias is None else x + bias[...].astype(x.dtype)


class MLP(nnx.Module):
  """activation(x U + u) V + v."""

  def __init__(
    self,
    sizes: dict[str, int],
    *,
    activation: Activation,
    rngs: nnx.Rngs,
  ):
    self.activation = activation
    self.up = Linear(sizes, "D F", rngs=rngs)
    self.down = Linear(sizes, "F D", rngs=rngs)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Return the MLP of every token."""
    return self.down(ACTIVATIONS[self.activation](self.up(x)))


class GatedMLP(nnx.Module):
  """(activation(x G) * x U) V."""

  def __init__(
    self,
    sizes: dict[str, int],
    *,
    activation: Activation,
    rngs: nnx.Rngs,
  ):
    self.activation = activation
    self.gate = weight(rngs, "D F", sizes)
    self.up = weight(rngs, "D F", sizes)
    self.down = weight(rngs, "F D", sizes)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Return the MLP of every token."""
    gate, up, down = (
      w[...].astype(x.dtype) for w in (self.gate, self.up, self.down)
    )
    return (ACTIVATIONS[self.activation](x @ gate) * (x @ up)) @ down
