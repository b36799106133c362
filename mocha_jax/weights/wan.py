"""Names of Wan2.1 text to video: as diffusers has them, and as Wan's own files.

1.3B and 14B alike. What hears is ours, and so are adapters: they start fresh.
"""

from collections.abc import Mapping
from typing import Any

from mocha_jax.network import paths
from mocha_jax.weights import speech
from mocha_jax.weights.tables import Entry
from mocha_jax.weights.text import brought

# What neither kind of file has: what hears, and adapters.
FRESH = (
  ("speech", "blocks.speech_norm", "blocks.speech_attention"),
  ("blocks.self_attention.lora", "blocks.text_attention.lora"),
)

# A part of ours, and what it is called in diffusers' files and in Wan's own.
_LINEAR = (
  (
    "time.first",
    "condition_embedder.time_embedder.linear_1",
    "time_embedding.0",
  ),
  (
    "time.second",
    "condition_embedder.time_embedder.linear_2",
    "time_embedding.2",
  ),
  ("modulation", "condition_embedder.time_proj", "time_projection.1"),
  ("blocks.mlp.up", "blocks.{layer}.ffn.net.0.proj", "blocks.{layer}.ffn.0"),
  ("blocks.mlp.down", "blocks.{layer}.ffn.net.2", "blocks.{layer}.ffn.2"),
  ("out", "proj_out", "head.head"),
)
# Of a frozen text encoder, what brings its features to D.
_TEXT = (
  ("mlp.up", "condition_embedder.text_embedder.linear_1", "text_embedding.0"),
  ("mlp.down", "condition_embedder.text_embedder.linear_2", "text_embedding.2"),
)
_ATTENTION = (
  ("self_attention", "attn1", "self_attn"),
  ("text_attention", "attn2", "cross_attn"),
)
_PROJECTIONS = (
  ("query", "to_q", "q"),
  ("key", "to_k", "k"),
  ("value", "to_v", "v"),
  ("out", "to_out.0", "o"),
)
_NORMS = (("query_norm", "norm_q"), ("key_norm", "norm_k"))
_TEXT_NORM = ("norm2", "norm3")
_TABLES = (
  ("blocks.{layer}.scale_shift_table", "scale_shift_table"),
  ("blocks.{layer}.modulation", "head.modulation"),
)

# RoPE turns neighbours in their heads, and halves in ours; only where it does
# do the places within a head differ.
_PAIRS: Mapping[str, int] = {"r": 2}


def diffusers(patch: int, shapes: Mapping[str, Any]) -> list[Entry]:
  """Return the names of `WanTransformer3DModel`, and of what export adds to it.

  shapes: the tree of parameters, which says what there is. The first of its
  text encoders, if frozen, is what diffusers has; others are beside it.
  """
  encoders = shapes["text"]["encoders"]
  first = min(encoders)
  table = [*_entries(0, patch, first), *speech.entries()]
  for name, encoder in encoders.items():
    if name != first or "mlp" not in encoder:
      table += brought(f"text.encoders.{name}", f"text.{name}", encoder)
  there = paths(shapes)
  return [entry for entry in table if entry.ours in there]


def original(patch: int, shapes: Mapping[str, Any]) -> tuple[Entry, ...]:
  """Return the names of Wan's own files; shapes: as for `diffusers`."""
  return _entries(1, patch, min(shapes["text"]["encoders"]))


def _entries(kind: int, patch: int, text: str) -> tuple[Entry, ...]:
  """Return the table of one kind of file: 0 diffusers', 1 Wan's own.

  text: which encoder the files' is with us.
  """
  layer_table, out_table = _TABLES[kind]
  entries = [
    Entry(
      "patches.kernel",
      "patch_embedding.weight",
      "D c 1 p q",
      "(p q c) D",
      dict(p=patch, q=patch),
    ),
    Entry("patches.bias", "patch_embedding.bias"),
    Entry("blocks.modulation.offset", layer_table, "1 (i j) D", "i j D"),
    Entry("out_modulation", out_table, "1 i D", "i D"),
  ]
  of_text = ((f"text.encoders.{text}.{ours}", *rest) for ours, *rest in _TEXT)
  for ours, *theirs in (*_LINEAR, *of_text):
    name = theirs[kind]
    entries += [
      Entry(f"{ours}.kernel", f"{name}.weight", "y x", "x y"),
      Entry(f"{ours}.bias", f"{name}.bias"),
    ]
  norm = f"blocks.{{layer}}.{_TEXT_NORM[kind]}"
  entries += [
    Entry("blocks.text_norm.scale", f"{norm}.weight"),
    Entry("blocks.text_norm.bias", f"{norm}.bias"),
  ]
  for ours, *theirs in _ATTENTION:
    entries += _attention(f"blocks.{ours}", theirs[kind], kind)
  return tuple(entries)


def _attention(ours: str, theirs: str, kind: int) -> list[Entry]:
  entries, turned = [], theirs in ("attn1", "self_attn")
  for name, *names in _PROJECTIONS:
    there = f"blocks.{{layer}}.{theirs}.{names[kind]}"
    if name == "out":
      entries += [
        Entry(f"{ours}.out", f"{there}.weight", "D (N H)"),
        Entry(f"{ours}.out_bias", f"{there}.bias"),
      ]
    else:
      pairs = turned and name != "value"
      entries += [
        _heads(f"{ours}.{name}", f"{there}.weight", " D", pairs),
        _heads(f"{ours}.{name}_bias", f"{there}.bias", "", pairs),
      ]
  for name, there in _NORMS:
    there = f"blocks.{{layer}}.{theirs}.{there}.weight"
    entries.append(_heads(f"{ours}.{name}.scale", there, "", turned))
  return entries


def _heads(ours: str, theirs: str, inputs: str, pairs: bool) -> Entry:
  """Return the entry of what makes heads, out of these inputs."""
  before = f"{inputs.strip()} " if inputs else ""
  if not pairs:
    return Entry(ours, theirs, f"(N H){inputs}", f"{before}N H")
  return Entry(ours, theirs, f"(N P r){inputs}", f"{before}N (r P)", _PAIRS)
