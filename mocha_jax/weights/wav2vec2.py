"""Names and settings of wav2vec 2.0, base: transformers'."""

from collections.abc import Collection

from mocha_jax.weights.tables import Entry
from mocha_jax.weights.transformers_settings import Setting, Settings

_PREFIX = "wav2vec2."
# Of the convolution's magnitude and direction: newer names first.
_PARTS = (
  ("parametrizations.weight.original0", "parametrizations.weight.original1"),
  ("weight_g", "weight_v"),
)


def table(
  names: Collection[str], convolutions: int
) -> tuple[list[Entry], tuple[str, ...]]:
  """Return the table for a file that holds these names, and what it ignores.

  convolutions: how many there are before the transformer.
  """
  prefix = _PREFIX if any(n.startswith(_PREFIX) for n in names) else ""
  heard = prefix + "feature_extractor.conv_layers."
  encoder = prefix + "encoder."
  place = encoder + "pos_conv_embed.conv."
  magnitude, direction = next(
    (parts for parts in _PARTS if place + parts[0] in names), _PARTS[0]
  )
  entries = [
    *(
      Entry(f"convolutions.{i}.kernel", f"{heard}{i}.conv.weight", "D C K")
      for i in range(convolutions)
    ),
    *_affine("convolutions.0.norm", heard + "0.layer_norm"),
    *_affine("feature_norm", prefix + "feature_projection.layer_norm"),
    *_linear("projection", prefix + "feature_projection.projection", "D C"),
    Entry("positions.magnitude", place + magnitude, "1 1 K"),
    Entry("positions.direction", place + direction, "D C K"),
    Entry("positions.bias", place + "bias"),
    *_affine("norm", encoder + "layer_norm"),
    *_block(encoder + "layers.{layer}."),
  ]
  # What recognises speech, or was there for training, is not needed.
  return entries, (
    prefix + "masked_spec_embed",
    "lm_head.*",
    "quantizer.*",
    "project_hid.*",
    "project_q.*",
  )


def settings(
  *, heads: int, strides: tuple[int, ...], epsilon: float
) -> Settings:
  """Return what an encoder of these computes by; epsilon: of its norms."""
  rows = (
    Setting("num_attention_heads", heads, "sizes.heads"),
    Setting("conv_stride", strides, "sizes.strides"),
    Setting("feat_extract_norm", "group"),
    Setting("feat_extract_activation", "gelu"),
    Setting("do_stable_layer_norm", False),
    Setting("hidden_act", "gelu"),
    Setting("layer_norm_eps", epsilon),
  )
  return Settings(("wav2vec2",), rows)


def _block(block: str) -> list[Entry]:
  attention = block + "attention."
  entries = []
  for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
    name = f"{attention}{theirs}_proj"
    entries += [
      Entry(f"blocks.attention.{ours}", f"{name}.weight", "(N H) D"),
      Entry(f"blocks.attention.{ours}_bias", f"{name}.bias", "(N H)"),
    ]
  mlp = block + "feed_forward."
  return [
    *entries,
    Entry("blocks.attention.out", attention + "out_proj.weight", "D (N H)"),
    Entry("blocks.attention.out_bias", attention + "out_proj.bias"),
    *_affine("blocks.attention_norm", block + "layer_norm"),
    *_linear("blocks.mlp.up", mlp + "intermediate_dense", "F D"),
    *_linear("blocks.mlp.down", mlp + "output_dense", "D F"),
    *_affine("blocks.mlp_norm", block + "final_layer_norm"),
  ]


def _linear(ours: str, theirs: str, layout: str) -> list[Entry]:
  return [
    Entry(f"{ours}.kernel", f"{theirs}.weight", layout),
    Entry(f"{ours}.bias", f"{theirs}.bias"),
  ]


def _affine(ours: str, theirs: str) -> list[Entry]:
  return [
    Entry(f"{ours}.scale", f"{theirs}.weight"),
    Entry(f"{ours}.bias", f"{theirs}.bias"),
  ]
