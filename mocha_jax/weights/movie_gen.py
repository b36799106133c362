"""What `models.movie_gen`'s parameters are called in the exported PyTorch."""

from collections.abc import Mapping
from typing import Any

from mocha_jax.network import paths
from mocha_jax.weights import speech
from mocha_jax.weights.speech import linear, norm
from mocha_jax.weights.tables import Entry
from mocha_jax.weights.text import attention, brought, mlp


def entries(shapes: Mapping[str, Any]) -> list[Entry]:
  """Make the table for a tree of parameters.

  Which text encoders there are, and what is optional, the tree says.
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
    *attention("blocks.self_attention", f"{layer}.self_attention"),
    *attention("blocks.text_attention", f"{layer}.text_attention"),
    *speech.entries(),
    *mlp("blocks.mlp", f"{layer}.mlp"),
    norm("out_norm", "final_norm"),
    *linear("out_modulation", "final_modulation", "D K"),
    *linear("out", "final", "D C"),
    *linear("skip", "skip", "D C"),
  ]
  for name, encoder in shapes["text"]["encoders"].items():
    table += brought(f"text.encoders.{name}", f"text.{name}", encoder)
  there = paths(shapes)
  return [entry for entry in table if entry.ours in there]
