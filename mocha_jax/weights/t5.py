"""Names and settings of T5's encoder.

The names are transformers' or those of Wan's own file of UMT5, which comes
without settings.
"""

from collections.abc import Collection

from mocha_jax.weights.tables import Entry
from mocha_jax.weights.transformers_settings import Setting, Settings

# What transformers calls an MLP that is gated by each activation.
GATED = {"gelu_tanh": "gated-gelu", "silu": "gated-silu"}

_ATTENTION = "encoder.block.{layer}.layer.0."
_MLP = "encoder.block.{layer}.layer.1."
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")


def table(
  names: Collection[str], *, shared: bool
) -> tuple[list[Entry], tuple[str, ...]]:
  """Return the table for a file that holds these names, and what it ignores.

  shared: whether all layers share the numbers of relative positions.
  """
  if "token_embedding.weight" in names:
    return _wan(), ()
  embedding = next((n for n in _EMBEDDINGS if n in names), _EMBEDDINGS[0])
  attention = _ATTENTION + "SelfAttention."
  bias = attention + "relative_attention_bias.weight"
  mlp = _MLP + "DenseReluDense."
  entries = [
    Entry("tokens", embedding),
    Entry("positions", bias.replace("{layer}", "0"))
    if shared
    else Entry("blocks.positions", bias),
    Entry("blocks.attention_norm.scale", _ATTENTION + "layer_norm.weight"),
    *_attention(attention),
    Entry("blocks.mlp_norm.scale", _MLP + "layer_norm.weight"),
    Entry("blocks.mlp.gate", mlp + "wi_0.weight", "F D"),
    Entry("blocks.mlp.up", mlp + "wi_1.weight", "F D"),
    Entry("blocks.mlp.down", mlp + "wo.weight", "D F"),
    Entry("norm.scale", "encoder.final_layer_norm.weight"),
  ]
  # The embedding may stand there twice; files of whole models hold a decoder.
  return entries, (*_EMBEDDINGS, "decoder.*", "lm_head.weight")


def settings(*, activation: str, distance: int, epsilon: float) -> Settings:
  """Return what an encoder of these computes by; epsilon: of its norms.

  How many heads there are, the shape of their numbers of positions tells.
  """
  rows = (
    Setting("feed_forward_proj", activation, "sizes.activation", GATED),
    Setting("relative_attention_max_distance", distance, "sizes.distance"),
    Setting("layer_norm_epsilon", epsilon),
  )
  return Settings(("t5", "umt5", "mt5"), rows)


def _attention(prefix: str) -> list[Entry]:
  return [
    *(
      Entry(f"blocks.attention.{ours}", f"{prefix}{theirs}.weight", "(N H) D")
      for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"))
    ),
    Entry("blocks.attention.out", f"{prefix}o.weight", "D (N H)"),
  ]


def _wan() -> list[Entry]:
  block = "blocks.{layer}."
  return [
    Entry("tokens", "token_embedding.weight"),
    Entry("blocks.positions", block + "pos_embedding.embedding.weight"),
    Entry("blocks.attention_norm.scale", block + "norm1.weight"),
    *_attention(block + "attn."),
    Entry("blocks.mlp_norm.scale", block + "norm2.weight"),
    Entry("blocks.mlp.gate", block + "ffn.gate.0.weight", "F D"),
    Entry("blocks.mlp.up", block + "ffn.fc1.weight", "F D"),
    Entry("blocks.mlp.down", block + "ffn.fc2.weight", "D F"),
    Entry("norm.scale", "norm.weight"),
  ]
