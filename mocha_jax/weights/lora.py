"""Low-rank adapters in a file as PyTorch's PEFT and diffusers have them.

Beside a kernel W [outputs, inputs] are NAME.lora_A.weight [rank, inputs] and
NAME.lora_B.weight [outputs, rank]; they stand for W + (alpha / rank) B A.
"""

import json
import pathlib
import re
from collections.abc import Iterable

import safetensors

from mocha_jax.network import Network, paths
from mocha_jax.weights.tables import Entry

FILE = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."  # Of its names: which part of a pipeline they are of.
_METADATA = "lora_adapter_metadata"
_TARGETS = "target_modules"


def entries(kernels: Iterable[Entry], network: Network) -> list[Entry]:
  """Make the table of the adapters that a network has beside these kernels."""
  letters, table = paths(network.letters), []
  for kernel in kernels:
    module, _, name = kernel.ours.rpartition(".")
    ours = f"{module}.lora.{name}"
    if f"{ours}.down" not in letters:
      continue
    out, into = _axes(kernel.layout or "")
    axes = _axes(kernel.ours_layout or letters[kernel.ours])
    inputs = [axis for axis in axes if _letters(axis) <= _letters(into)]
    outputs = [axis for axis in axes if axis not in inputs]
    theirs = kernel.theirs.removesuffix(".weight")
    table += [
      Entry(
        *(f"{ours}.down", f"{theirs}.lora_A.weight"),
        *(f"K {into}", " ".join([*inputs, "K"]), kernel.sizes),
      ),
      Entry(
        *(f"{ours}.up", f"{theirs}.lora_B.weight"),
        *(f"{out} K", " ".join(["K", *outputs]), kernel.sizes),
      ),
    ]
  return table


def metadata(
  table: Iterable[Entry], *, rank: int, alpha: float
) -> dict[str, str]:
  """Return what a file with the adapters of a table says of itself."""
  targets = {
    entry.theirs.partition(".lora_")[0].rpartition("{layer}.")[2]
    for entry in table
  }
  told = {
    "r": rank,
    "lora_alpha": alpha,
    _TARGETS: sorted(targets),
  }
  told = {f"{PREFIX}{key}": value for key, value in told.items()}
  return {_METADATA: json.dumps(told)}


def check(path: pathlib.Path, *, rank: int, alpha: float) -> None:
  """See that adapters in a file count for what they would in a network.

  Which kernels they are of, the names of its tensors say.

  Raises:
    ValueError: rank or alpha is another, or the file says more than `metadata`
      does: of rsLoRA, DoRA, ranks by layer.
  """
  with safetensors.safe_open(path, "np") as file:
    told = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
  said, wanted = (
    {key: x for key, x in each.items() if key != f"{PREFIX}{_TARGETS}"}
    for each in (
      told,
      json.loads(metadata([], rank=rank, alpha=alpha)[_METADATA]),
    )
  )
  if said != wanted:
    raise ValueError(
      f"{path}: {_METADATA} says {said}; by config.model.lora it should be"
      f" {wanted}"
    )


def _axes(layout: str) -> list[str]:
  """Split a layout, "D N (r P)" into D, N and (r P)."""
  return re.findall(r"\([^)]*\)|\w+", layout)


def _letters(axis: str) -> set[str]:
  return set(re.findall(r"\w+", axis))
