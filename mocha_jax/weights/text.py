"""What text encoders that are trained are called in exported PyTorch."""

from collections.abc import Mapping
from typing import Any

from mocha_jax.weights.speech import linear, norm, projections
from mocha_jax.weights.tables import Entry


def brought(ours: str, theirs: str, encoder: Mapping[str, Any]) -> list[Entry]:
  """Make the table of what brings text to D, of a frozen encoder or trained.

  encoder: its parameters; rows of those that it lacks are in the table, too.
  """
  table = [
    *(Entry(f"{ours}.{x}", f"{theirs}.{x}") for x in _EMBEDDINGS),
    *linear(f"{ours}.linear", f"{theirs}.linear", "E D"),
    *linear(f"{ours}.mlp.up", f"{theirs}.linear_1", "E O"),
    *linear(f"{ours}.mlp.down", f"{theirs}.linear_2", "O D"),
    norm(f"{ours}.norm", f"{theirs}.norm"),
    Entry(f"{ours}.norm.bias", f"{theirs}.norm.bias"),
  ]
  for i in encoder.get("blocks", ()):
    block, there = f"{ours}.blocks.{i}", f"{theirs}.blocks.{i}"
    table += attention(f"{block}.attention", f"{there}.attention")
    table += mlp(f"{block}.mlp", f"{there}.mlp")
    for part in ("attention", "mlp"):
      table.append(norm(f"{block}.{part}_norm", f"{there}.{part}_norm"))
  return table


_EMBEDDINGS = ("word", "pair", "position")
_NORMS = ("query_norm", "key_norm")


def attention(ours: str, theirs: str) -> list[Entry]:
  """Name an attention whose queries and keys have norms."""
  norms = (norm(f"{ours}.{x}", f"{theirs}.{x}") for x in _NORMS)
  return [*projections(ours, theirs), *norms]


def mlp(ours: str, theirs: str) -> list[Entry]:
  """Name a SwiGLU."""
  return [
    Entry(f"{ours}.gate", f"{theirs}.gate.weight", "F D"),
    Entry(f"{ours}.up", f"{theirs}.up.weight", "F D"),
    Entry(f"{ours}.down", f"{theirs}.down.weight", "D F"),
  ]
