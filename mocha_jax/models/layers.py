"""Layers that every backbone shares; norms and modulation are fp32 islands."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from mocha_jax.models import remat

EPSILON = 1e-6


def weight(
  rngs: nnx.Rngs, letters: str, sizes: dict[str, int], *, scale: float = 1.0
) -> nnx.Param:
  """Return a parameter annotated with its letters, normal / sqrt(fan-in).

  The last letters (D of "N H D", N H of "D N H") are the output. scale 0
  starts it at zero.
  """
  shape = tuple(sizes[letter] for letter in letters.split())
  outputs = 2 if letters.endswith("N H") else 1
  fan_in = 1
  for size in shape[:-outputs]:
    fan_in *= size
  noise = jax.random.truncated_normal(rngs.params(), -2, 2, shape)
  return nnx.Param(noise * (scale / fan_in**0.5), letters=letters)


def table(
  rngs: nnx.Rngs, letters: str, sizes: dict[str, int], *, scale: float
) -> nnx.Param:
  """Return a table of learned vectors: normal times scale."""
  shape = tuple(sizes[letter] for letter in letters.split())
  noise = jax.random.normal(rngs.params(), shape)
  return nnx.Param(noise * scale, letters=letters)


class RMSNorm(nnx.Module):
  """x / rms(x) * scale, over the last axis."""

  def __init__(self, width: int):
    self.scale = nnx.Param(jnp.ones(width), letters="D")

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + EPSILON)
    return (y * self.scale[...]).astype(x.dtype)


class HeadNorm(nnx.Module):
  """RMSNorm over the width of a head, one scale for all heads."""

  def __init__(self, head: int):
    self.scale = nnx.Param(jnp.ones(head), letters="H")

  def __call__(self, x: Float[Array, "*B N H"]) -> Float[Array, "*B N H"]:
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + EPSILON)
    return (y * self.scale[...]).astype(x.dtype)


class WideNorm(nnx.Module):
  """RMSNorm over all heads together, a scale for each of N x H."""

  def __init__(self, heads: int, head: int):
    self.scale = nnx.Param(jnp.ones((heads, head)), letters="N H")

  def __call__(self, x: Float[Array, "*B N H"]) -> Float[Array, "*B N H"]:
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y**2, axis=(-2, -1), keepdims=True) + EPSILON)
    return (y * self.scale[...]).astype(x.dtype)


def standardized(
  x: Float[Array, "*B D"], epsilon: float = EPSILON
) -> Float[Array, "*B D"]:
  """Return (x - mean) / std over the last axis, in float32."""
  y = x.astype(jnp.float32)
  y -= jnp.mean(y, axis=-1, keepdims=True)
  return y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + epsilon)


class LayerNorm(nnx.Module):
  """(x - mean) / std * scale + bias, over the last axis."""

  def __init__(self, width: int, epsilon: float = EPSILON):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones(width), letters="D")
    self.bias = nnx.Param(jnp.zeros(width), letters="D")

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    y = standardized(x, self.epsilon)
    return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class Linear(nnx.Module):
  """x W + b, in the type of x; float32 is not rounded for the product."""

  def __init__(
    self,
    sizes: dict[str, int],
    letters: str,
    *,
    rngs: nnx.Rngs,
    bias: bool = True,
    scale: float = 1.0,
  ):
    self.kernel = weight(rngs, letters, sizes, scale=scale)
    out = letters.split()[-1]
    self.bias = nnx.Param(jnp.zeros(sizes[out]), letters=out) if bias else None

  def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    # Else TPUs round float32 to bfloat16, and GPUs to TF32.
    exact = "highest" if x.dtype == jnp.float32 else None
    y = jnp.matmul(x, self.kernel[...].astype(x.dtype), precision=exact)
    return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class SwiGLU(nnx.Module):
  """(silu(x Wg) * x Wu) Wd."""

  def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
    sizes = dict(D=width, F=hidden)
    self.gate = weight(rngs, "D F", sizes)
    self.up = weight(rngs, "D F", sizes)
    self.down = weight(rngs, "F D", sizes)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    gate, up, down = (
      w[...].astype(x.dtype) for w in (self.gate, self.up, self.down)
    )
    gated = checkpoint_name(x @ gate, remat.GATE)
    return (jax.nn.silu(gated) * checkpoint_name(x @ up, remat.UP)) @ down


class Modulation(NamedTuple):
  """How one part of a block is conditioned on t."""

  shift: Float[Array, "B 1 D"]
  scale: Float[Array, "B 1 D"]
  gate: Float[Array, "B 1 D"]


class ModulationTable(nnx.Module):
  """A layer's own offsets to the modulation that all layers share."""

  def __init__(self, width: int):
    start = jnp.zeros((2, 3, width)).at[:, 2].set(1.0)  # Gates start open.
    self.offset = nnx.Param(start, letters="_ _ D")

  def __call__(
    self, shared: Float[Array, "B 2 3 D"]
  ) -> tuple[Modulation, Modulation]:
    """Return the modulation of attention and of the feed-forward part."""
    both = (shared + self.offset[...])[:, :, :, None]
    first, second = (
      Modulation(both[:, i, 0], both[:, i, 1], both[:, i, 2]) for i in (0, 1)
    )
    return first, second


def modulate(
  x: Float[Array, "B T D"],
  shift: Float[Array, "B 1 D"],
  scale: Float[Array, "B 1 D"],
) -> Float[Array, "B T D"]:
  """Return x * (1 + scale) + shift."""
  return (x * (1 + scale) + shift).astype(x.dtype)


def gated(
  x: Float[Array, "B T D"], gate: Float[Array, "B 1 D"]
) -> Float[Array, "B T D"]:
  """Return x * gate."""
  return (x * gate).astype(x.dtype)
