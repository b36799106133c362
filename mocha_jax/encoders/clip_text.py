"""CLIP's text encoder (arXiv 2103.00020), such as MetaCLIP's.

A pre-norm transformer in which no token sees what comes after it. Prompts can
be longer than its table of positions: then the table is stretched by linear
interpolation, so that its first row stands at the first token and its last at
the last (Movie Gen takes 256 tokens where CLIP was trained on 77).
"""

import dataclasses
from collections.abc import Collection
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mocha_jax.encoders.frozen import FrozenText
from mocha_jax.encoders.interpolate import interpolate
from mocha_jax.encoders.layers import MLP, SelfAttention
from mocha_jax.models.layers import LayerNorm, table
from mocha_jax.sections import positive

_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class ClipTextSizes:
  """Sizes: width (D), ffn (F), heads (N); rows of the two tables."""

  layers: int
  width: int
  ffn: int
  heads: int
  vocabulary: int
  positions: int
  activation: Literal["gelu", "quick_gelu"]

  def __post_init__(self):
    positive(self, "layers", "width", "ffn", "heads", "vocabulary", "positions")
    if self.width % self.heads:
      raise ValueError(
        f"width={self.width} must be a multiple of heads={self.heads}"
      )


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
  """Section `text_encoder`: see `frozen.FrozenText` for the other keys."""

  name: Literal["clip_text"]
  sizes: ClipTextSizes
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

  def __init__(self, config: ClipTextSizes, *, rngs: nnx.Rngs):
    head = config.width // config.heads
    sizes = dict(D=config.width, F=config.ffn, N=config.heads, H=head)
    self.attention_norm = LayerNorm(config.width, _EPSILON)
    self.attention = SelfAttention(
      sizes, scale=head**-0.5, biased=True, rngs=rngs
    )
    self.mlp_norm = LayerNorm(config.width, _EPSILON)
    self.mlp = MLP(sizes, activation=config.activation, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B L D"], mask: Bool[Array, "1 1 L L"]
  ) -> Float[Array, "B L D"]:
    """Return the layer's output."""
    x = x + self.attention(self.attention_norm(x), mask=mask)
    return x + self.mlp(self.mlp_norm(x))


class ClipText(nnx.Module):
  """Turns tokens into features, in the type of its parameters."""

  def __init__(self, config: ClipTextSizes, *, rngs: nnx.Rngs):
    sizes = dict(D=config.width, V=config.vocabulary, P=config.positions)
    self.tokens = table(rngs, "V D", sizes, scale=0.02)
    self.positions = table(rngs, "P D", sizes, scale=0.02)

    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap(in_axes=(0,))
    def blocks(rngs):
      return Block(config, rngs=rngs)

    self.blocks = blocks(rngs)
    self.norm = LayerNorm(config.width, _EPSILON)

  def __call__(
    self, ids: Int[Array, "B L"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    """Return the last layer's features, after the norm at the end."""
    del mask  # Padding comes last, where no token sees it.
    length = ids.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
    graph, layers = nnx.split(self.blocks)

    def layer(x, state):
      return nnx.merge(graph, state)(x, causal), None

    x = self.tokens[ids] + self._positions(length)
    return self.norm(jax.lax.scan(layer, x, layers)[0])

  def _positions(self, length: int) -> Float[Array, "L D"]:
    rows = self.positions[...]
    if length <= len(rows):
      return rows[:length]
    return interpolate(rows[None], length)[0]


class ClipTextEncoder(FrozenText):
  """Encodes prompts by the encoder that a section `text_encoder` describes."""

  config: ClipTextConfig

  def build(self, rngs: nnx.Rngs) -> ClipText:
    """Make the module."""
    return ClipText(self.config.sizes, rngs=rngs)

  def table(self, names: Collection[str]):
    """Return the table of names for a file that holds these."""
    from mocha_jax.weights import clip_text

    return clip_text.table(names)

  def settings(self):
    """Return what it computes by and no tensor's shape tells."""
    from mocha_jax.weights import clip_text

    sizes = self.config.sizes
    return clip_text.settings(
      heads=sizes.heads, activation=sizes.activation, epsilon=_EPSILON
    )
