"""Names and settings of CLIP's text encoder: transformers'.

Names have a prefix or none.
"""

from collections.abc import Collection

from mocha_jax.weights.tables import Entry
from mocha_jax.weights.transformers_settings import Setting, Settings

_PREFIX = "text_model."
_BARE = "embeddings.token_embedding.weight"  # As transformers 5 writes it.
_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu"}


def table(names: Collection[str]) -> tuple[list[Entry], tuple[str, ...]]:
  """Return the table for a file that holds these names, and what it ignores."""
  prefix = "" if _BARE in names else _PREFIX
  block = prefix + "encoder.layers.{layer}."
  attention = block + "self_attn."
  embeddings = prefix + "embeddings."
  entries = [
    Entry("tokens", prefix + _BARE),
    Entry("positions", embeddings + "position_embedding.weight"),
  ]
  for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
    name = f"{attention}{theirs}_proj"
    entries += [
      Entry(f"blocks.attention.{ours}", f"{name}.weight", "(N H) D"),
      Entry(f"blocks.attention.{ours}_bias", f"{name}.bias", "(N H)"),
    ]
  entries += [
    Entry("blocks.attention.out", attention + "out_proj.weight", "D (N H)"),
    Entry("blocks.attention.out_bias", attention + "out_proj.bias"),
    Entry("blocks.mlp.up.kernel", block + "mlp.fc1.weight", "F D"),
    Entry("blocks.mlp.up.bias", block + "mlp.fc1.bias"),
    Entry("blocks.mlp.down.kernel", block + "mlp.fc2.weight", "D F"),
    Entry("blocks.mlp.down.bias", block + "mlp.fc2.bias"),
    *_norm("blocks.attention_norm", block + "layer_norm1"),
    *_norm("blocks.mlp_norm", block + "layer_norm2"),
    *_norm("norm", prefix + "final_layer_norm"),
  ]
  # Files of a whole CLIP hold its eyes too; old ones a list of 0, 1, 2, ….
  return entries, (
    embeddings + "position_ids",
    "vision_model.*",
    "visual_projection.weight",
    "text_projection.weight",
    "logit_scale",
  )


def settings(*, heads: int, activation: str, epsilon: float) -> Settings:
  """Return what an encoder of these computes by; epsilon: of its norms.

  Which token ends a prompt does not matter: no pooled feature is taken.
  """
  rows = (
    Setting("num_attention_heads", heads, "sizes.heads"),
    Setting("hidden_act", activation, "sizes.activation", _ACTIVATIONS),
    Setting("layer_norm_eps", epsilon),
  )
  defaults = {"num_attention_heads": 8, "hidden_act": "quick_gelu"}
  return Settings(
    ("clip_text_model",), rows, wholes=("clip",), left_out=defaults
  )


def _norm(ours: str, theirs: str) -> list[Entry]:
  return [
    Entry(f"{ours}.scale", f"{theirs}.weight"),
    Entry(f"{ours}.bias", f"{theirs}.bias"),
  ]
