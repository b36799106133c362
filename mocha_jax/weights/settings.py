"""What weights are used by, though no shape of theirs tells.

Attention of 12 heads of 128 has the matrices of 24 heads of 64. The config.json
that lies beside tensors, of a run that was exported, of a transformer of
diffusers or of Wan's own, says which.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mocha_jax.network import paths

# By our names in section `model`, and by those of others.
_SILENT = {
  "heads": ("num_attention_heads", "num_heads"),
  "head": ("attention_head_dim",),
  "ratio": (),
  "causal": (),
  "speech.attention": ("speech_attention",),
  "speech.edge": ("speech_edge",),
  "speech.order": ("speech_order",),
  "speech.position": ("speech_position",),
}
# Of no weight to a run without adapters.
_OF_ADAPTERS = {"lora.alpha": ()}


def check(told: pathlib.Path, model: Mapping[str, Any]) -> None:
  """See that weights are to be used as they were before.

  told: the config.json beside them; model: section `model` of the config.

  Raises:
    ValueError: a setting differs; or the file is damaged.
  """
  there = read(told)
  if isinstance(there.get("model"), dict):
    there = paths(there["model"])  # Of a run.
  given = paths(model)
  silent = _SILENT | (_OF_ADAPTERS if there.get("lora.rank") else {})
  for ours, theirs in silent.items():
    for name in (ours, *theirs):
      if name in there and ours in given and there[name] != given[ours]:
        raise ValueError(
          f"{told}: these weights have {name} = {there[name]!r}, the config "
          f"has config.model.{ours} = {given[ours]!r}"
        )


def read(told: pathlib.Path) -> dict[str, Any]:
  """Return what a config.json holds; ValueError if it is damaged."""
  try:
    there = json.loads(told.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{told} is not JSON: {error}") from error
  if not isinstance(there, dict):
    raise ValueError(f"{told} is no config: it holds no settings by name")
  return there
