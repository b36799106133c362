"""Parameters of a network with adapters as those of one without."""

from typing import Any

from mocha_jax.models.lora import LoraConfig, merge_kernel
from mocha_jax.network import nested, paths


def merged(params: Any, config: LoraConfig) -> Any:
  """Add the adapters to their kernels; arrays of jax or numpy, stacked."""
  flat, kept = paths(params), {}
  for path, x in flat.items():
    module, _, name = path.rpartition(".")
    down, up = (f"{module}.lora.{name}.{part}" for part in ("down", "up"))
    if down in flat:
      x = merge_kernel(x, flat[down], flat[up], config)
    if ".lora." not in path:
      kept[path] = x
  return nested(kept)
