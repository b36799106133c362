"""What enters the backbone: time, place, text and speech, each brought to D."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mocha_jax import sharding
from mocha_jax.batch import Condition
from mocha_jax.models import lora
from mocha_jax.models.attention import Attention
from mocha_jax.models.layers import LayerNorm, Linear, RMSNorm, SwiGLU, table
from mocha_jax.sections import positive

TIME_FEATURES = 256


class TimeEmbedding(nnx.Module):
  """Flow time in 0..1 to a vector: sinusoids of 1000 t, then a 2-layer MLP."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    sizes = dict(E=TIME_FEATURES, D=width, O=width)
    self.first = Linear(sizes, "E D", rngs=rngs)
    self.second = Linear(sizes, "O D", rngs=rngs)

  def __call__(self, t: Float[Array, "B"]) -> Float[Array, "B D"]:
    return self.second(jax.nn.silu(self.first(sinusoids(t))))


def sinusoids(t: Float[Array, "B"]) -> Float[Array, "B E"]:
  """Return cosines, then sines, of 1000 t at falling frequencies."""
  half = TIME_FEATURES // 2
  frequency = 10_000.0 ** (-jnp.arange(half) / half)
  angle = 1000.0 * t[:, None] * frequency
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class Positions(nnx.Module):
  """Learned vectors of frame, row and column, added (Movie Gen)."""

  def __init__(
    self, limits: tuple[int, int, int], width: int, *, rngs: nnx.Rngs
  ):
    self.limits = limits
    make = lambda n: table(rngs, "P D", dict(P=n, D=width), scale=0.02)
    self.frame, self.row, self.column = map(make, limits)

  def __call__(self, f: int, h: int, w: int) -> Float[Array, "T D"]:
    """Return the position of every token of an f x h x w grid.

    Raises:
      ValueError: the grid is larger than the tables.
    """
    if any(n > limit for n, limit in zip((f, h, w), self.limits, strict=True)):
      raise ValueError(
        f"{f} x {h} x {w} frames, rows, columns of tokens: the model's "
        f"position tables hold {' x '.join(map(str, self.limits))}"
      )
    grid = self.frame[:f, None, None] + self.row[:h, None] + self.column[:w]
    return grid.reshape(f * h * w, -1)


@dataclasses.dataclass(frozen=True)
class TrainedTextConfig:
  """A text encoder that is trained with the model.

  vocabulary: ids, 0 is padding; length: tokens at most; layers: blocks.
  """

  vocabulary: int
  length: int
  layers: int

  def __post_init__(self):
    positive(self, "vocabulary", "length")


class TextBlock(nnx.Module):
  """A pre-norm transformer block over text tokens."""

  def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(width)
    self.attention = Attention(
      dict(D=width, N=heads, H=width // heads),
      tokens=("L", "L"),
      names=("text_tokens",) * 3,
      implementation="xla",  # A kernel has nothing to gain on so few tokens.
      lora=lora.NONE,
      rngs=rngs,
    )
    self.mlp_norm = RMSNorm(width)
    self.mlp = SwiGLU(width, 2 * width, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    x = x + self.attention(self.attention_norm(x), mask=mask)
    return x + self.mlp(self.mlp_norm(x))


class TrainedText(nnx.Module):
  """Embeds hashed words and pairs of neighbours, then mixes them.

  A pair ("red", "shirt") has an id of its own, hashed from the two words', so
  that an attribute and what it belongs to are one feature from the start.
  """

  PAIR = 1_000_003  # An odd multiplier spreads the pairs over the vocabulary.

  def __init__(
    self, config: TrainedTextConfig, width: int, heads: int, *, rngs: nnx.Rngs
  ):
    sizes = dict(V=config.vocabulary, L=config.length, D=width)
    self.word = table(rngs, "V D", sizes, scale=1.0)
    self.pair = table(rngs, "V D", sizes, scale=1.0)
    self.position = table(rngs, "L D", sizes, scale=0.3)
    self.blocks = nnx.List(
      [TextBlock(width, heads, rngs=rngs) for _ in range(config.layers)]
    )
    self.norm = LayerNorm(width)

  def __call__(
    self, ids: Int[Array, "B L"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    before = jnp.pad(ids, ((0, 0), (1, 0)))[:, :-1]
    pair = (before.astype(jnp.uint32) * self.PAIR + ids.astype(jnp.uint32)) % (
      self.pair.shape[0]
    )
    # Whole tables: XLA cannot look up in split ones where clips lie on several
    # replicas and their tokens on several devices.
    word, pairs = (
      sharding.constrain(t[...], "V D") for t in (self.word, self.pair)
    )
    x = word[ids] + pairs[pair] + self.position[: ids.shape[1]]
    for block in self.blocks:
      x = block(x, mask)
    return self.norm(x)


class FrozenText(nnx.Module):
  """Brings a frozen encoder's features to D: Linear, then LayerNorm."""

  def __init__(self, features: int, width: int, *, rngs: nnx.Rngs):
    self.linear = Linear(
      dict(E=features, D=width), "E D", rngs=rngs, bias=False
    )
    self.norm = LayerNorm(width)

  def __call__(
    self, features: Float[Array, "B L E"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    del mask  # Each token is projected alone.
    return self.norm(self.linear(features))


class TextEmbedding(nnx.Module):
  """Concatenates what every text encoder says, each brought to D.

  frozen: what brings the features of each frozen encoder there.
  """

  def __init__(
    self,
    frozen: Mapping[str, nnx.Module],
    small: TrainedTextConfig | None,
    width: int,
    heads: int,
    *,
    rngs: nnx.Rngs,
  ):
    encoders: dict[str, nnx.Module] = {**frozen}
    if small is not None:
      encoders["small_text"] = TrainedText(small, width, heads, rngs=rngs)
    self.encoders = nnx.Dict(encoders)

  def __call__(
    self, condition: Condition
  ) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
    """Return the tokens of all encoders and which of them are there.

    Raises:
      ValueError: the condition lacks an encoder that the model has.
    """
    missing = set(self.encoders) ^ set(condition.text)
    if missing:
      raise ValueError(
        f"text of {sorted(condition.text)}, but the model reads "
        f"{sorted(self.encoders)}"
      )
    names = sorted(self.encoders)
    tokens = [
      self.encoders[name](condition.text[name], condition.text_mask[name])
      for name in names
    ]
    mask = [condition.text_mask[name] for name in names]
    return jnp.concatenate(tokens, axis=1), jnp.concatenate(mask, axis=1)
