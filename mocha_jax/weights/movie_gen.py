"""What `models.movie_gen`'s parameters are called in the exported PyTorch."""

from collections.abc import Mapping
from typing import Any

from mocha_jax.weights import speech
from mocha_jax.weights.speech import linear, norm, projections
from mocha_jax.weights.tables import Entry, paths


def entries(shapes: Mapping[str, Any], order: str) -> list[Entry]:
  """Make the table for a tree of parameters, speech window attention in it.

  Which text encoders there are, and what is optional, the tree says.
  order: of the tokens in a window of speech.
  """
  layer = "blocks.{layer}"
  table = [
    *linear("patches", "patches", "C D"),
    *(
      Entry(f"positions.{axis}", f"positions.{axis}")
      for axis in ("frame", "row", "column")
    ),
    *linear("time.first", "time.first", "E D"),
    *linear("time.second", "time.second", "O D"),
    *linear("modulation", "modulation", "D K"),
    Entry("blocks.modulation.offset", f"{layer}.modulation.offset"),
    *(
      norm(f"blocks.{part}_norm", f"{layer}.{part}_norm")
      for part in ("self", "text", "mlp")
    ),
    *_attention("blocks.self_attention", f"{layer}.self_attention"),
    *_attention("blocks.text_attention", f"{layer}.text_attention"),
    *speech.entries(order),
    *_mlp("blocks.mlp", f"{layer}.mlp"),
    norm("out_norm", "final_norm"),
    *linear("out_modulation", "final_modulation", "D K"),
    *linear("out", "final", "D C"),
    *linear("skip", "skip", "D C"),
  ]
  for name, encoder in shapes["text"]["encoders"].items():
    table += _text(f"text.encoders.{name}", f"text.{name}", encoder)
  there = paths(shapes)
  return [entry for entry in table if entry.ours in there]


def _text(ours: str, theirs: str, encoder: Mapping[str, Any]) -> list[Entry]:
  table = [
    *(Entry(f"{ours}.{x}", f"{theirs}.{x}") for x in _EMBEDDINGS),
    *linear(f"{ours}.linear", f"{theirs}.linear", "E D"),
    norm(f"{ours}.norm", f"{theirs}.norm"),
    Entry(f"{ours}.norm.bias", f"{theirs}.norm.bias"),
  ]
  for i in encoder.get("blocks", ()):
    block, there = f"{ours}.blocks.{i}", f"{theirs}.blocks.{i}"
    table += _attention(f"{block}.attention", f"{there}.attention")
    table += _mlp(f"{block}.mlp", f"{there}.mlp")
    for part in ("attention", "mlp"):
      table.append(norm(f"{block}.{part}_norm", f"{there}.{part}_norm"))
  return table


_EMBEDDINGS = ("word", "pair", "position")
_NORMS = ("query_norm", "key_norm")


def _attention(ours: str, theirs: str) -> list[Entry]:
  norms = (norm(f"{ours}.{x}", f"{theirs}.{x}") for x in _NORMS)
  return [*projections(ours, theirs), *norms]


def _mlp(ours: str, theirs: str) -> list[Entry]:
  return [
    Entry(f"{ours}.gate", f"{theirs}.gate.weight", "F D"),
    Entry(f"{ours}.up", f"{theirs}.up.weight", "F D"),
    Entry(f"{ours}.down", f"{theirs}.down.weight", "D F"),
  ]
