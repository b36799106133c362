"""T5's encoder (arXiv 1910.10683): UMT5-XXL, ByT5 and UL2.

Every layer is x += attention(norm(x)), x += mlp(norm(x)) with RMSNorm and a
gated MLP. Scores are q·k, not divided by sqrt(H), plus a learned number per
head for the distance of the two tokens, which falls into buckets: one each for
small distances, logarithmic ones up to `distance`. The numbers are shared by
all layers (T5, ByT5, UL2) or each layer has its own (UMT5).
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mocha_jax.encoders.frozen import FrozenText
from mocha_jax.encoders.layers import GatedMLP, SelfAttention
from mocha_jax.models.layers import EPSILON, RMSNorm, table
from mocha_jax.sections import positive


@dataclasses.dataclass(frozen=True)
class T5Sizes:
  """Sizes of the encoder.

  width (D), ffn (F), heads (N), head (H), layers; vocabulary: rows of the
  embedding; buckets: of distances, half for tokens before; distance: at which
  the last one begins; positions: whose the numbers per bucket are.
  """

  layers: int
  width: int
  ffn: int
  heads: int
  head: int
  vocabulary: int
  buckets: int
  distance: int
  positions: Literal["shared", "per_layer"]
  activation: Literal["gelu_tanh", "silu"]

  def __post_init__(self):
    positive(self, "layers", "width", "ffn", "heads", "head", "vocabulary")
    if self.buckets < 4 or self.buckets % 4:
      raise ValueError(f"buckets={self.buckets} must be a multiple of 4")
    if self.distance <= self.buckets // 4:
      raise ValueError(
        f"distance={self.distance} must be above buckets / 4 ="
        f" {self.buckets // 4}"
      )


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Section `text_encoder`: see `frozen.FrozenText` for the other keys."""

  name: Literal["umt5", "byt5", "ul2"]
  sizes: T5Sizes
  weights: str
  tokenizer: str
  length: int
  cut: bool
  dtype: Literal["float32", "bfloat16"]
  batch_size: int

  def __post_init__(self):
    positive(self, "length", "batch_size")


class Block(nnx.Module):
  """One layer."""

  def __init__(self, config: T5Sizes, *, rngs: nnx.Rngs):
    sizes = dict(
      D=config.width,
      F=config.ffn,
      N=config.heads,
      H=config.head,
      P=config.buckets,
    )
    self.attention_norm = RMSNorm(config.width)
    self.attention = SelfAttention(sizes, scale=1.0, biased=False, rngs=rngs)
    self.positions = (
      table(rngs, "P N", sizes, scale=1.0)
      if config.positions == "per_layer"
      else None
    )
    self.mlp_norm = RMSNorm(config.width)
    self.mlp = GatedMLP(sizes, activation=config.activation, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    mask: Bool[Array, "B L"],
    shared: Float[Array, "P N"] | None,
    bucket: Int[np.ndarray, "L L"],
  ) -> Float[Array, "B L D"]:
    """Return the layer's output; shared: the positions of all layers."""
    own = shared if self.positions is None else self.positions[...]
    assert own is not None
    offsets = own.astype(jnp.float32)[bucket].transpose(2, 0, 1)[None]
    x = x + self.attention(
      self.attention_norm(x), offsets=offsets, mask=mask[:, None, None]
    )
    return x + self.mlp(self.mlp_norm(x))


class T5(nnx.Module):
  """Turns tokens into features, in the type of its parameters."""

  def __init__(self, config: T5Sizes, *, rngs: nnx.Rngs):
    self.config = config
    sizes = dict(
      D=config.width, N=config.heads, P=config.buckets, V=config.vocabulary
    )
    self.tokens = table(rngs, "V D", sizes, scale=1.0)
    self.positions = (
      table(rngs, "P N", sizes, scale=1.0)
      if config.positions == "shared"
      else None
    )

    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap(in_axes=(0,))
    def blocks(rngs):
      return Block(config, rngs=rngs)

    self.blocks = blocks(rngs)
    self.norm = RMSNorm(config.width)

  def __call__(
    self, ids: Int[Array, "B L"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    """Return features of all tokens; none sees those that the mask hides."""
    graph, layers = nnx.split(self.blocks)
    shared = None if self.positions is None else self.positions[...]
    bucket = buckets(ids.shape[1], self.config.buckets, self.config.distance)

    def layer(x, state):
      return nnx.merge(graph, state)(x, mask, shared, bucket), None

    return self.norm(jax.lax.scan(layer, self.tokens[ids], layers)[0])


def buckets(
  length: int, count: int, distance: int
) -> Int[np.ndarray, "length length"]:
  """Return the bucket of the distance from each token (row) to each (column).

  Of count / 2 on either side, half are for 0, 1, 2, …; bucket k of the rest is
  that of distances from e (d / e)^(k / e) on, with e = count / 4.
  """
  offset = np.arange(length)[None] - np.arange(length)[:, None]
  side, exact = count // 2, count // 4
  far = np.maximum(np.abs(offset), exact).astype(np.float32) / exact
  grown = np.log(far) / np.float32(math.log(distance / exact))
  large = exact + (grown * (side - exact)).astype(np.int64)
  near = np.abs(offset)
  bucket = np.where(near < exact, near, np.minimum(large, side - 1))
  return bucket + np.where(offset > 0, side, 0)


class T5Text(FrozenText):
  """Encodes prompts by the encoder that a section `text_encoder` describes."""

  config: T5Config

  def build(self, rngs: nnx.Rngs) -> T5:
    """Make the module."""
    return T5(self.config.sizes, rngs=rngs)

  def table(self, names: Collection[str]):
    """Return the table of names for a file that holds these."""
    from mocha_jax.weights import t5

    return t5.table(names, shared=self.config.sizes.positions == "shared")

  def settings(self):
    """Return what it computes by and no tensor's shape tells."""
    from mocha_jax.weights import t5

    sizes = self.config.sizes
    return t5.settings(
      activation=sizes.activation, distance=sizes.distance, epsilon=EPSILON
    )
