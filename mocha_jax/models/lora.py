"""Low-rank adapters beside the projections of a layer (arXiv 2106.09685).

  y = x W + (alpha / rank) (x A) B

A starts random and B at zero, so that nothing changes at first. They are
parameters of their own, `lora.NAME.down` and `.up` beside the kernel `NAME`;
merged, W + (alpha / rank) A B takes the place of W.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mocha_jax.models.layers import weight


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """rank: of A B, 0 for no adapters; alpha: see the module.

  targets: kernels of a layer that have one, such as "self_attention.query".
  """

  rank: int
  alpha: float
  targets: tuple[str, ...]

  def __post_init__(self):
    if self.rank < 0 or self.alpha <= 0:
      raise ValueError(
        f"rank={self.rank} must not be negative, alpha={self.alpha} above 0"
      )
    if self.rank and not self.targets:
      raise ValueError(f"rank={self.rank}, but targets is empty")

  @property
  def scale(self) -> float:
    """What A B counts for."""
    return self.alpha / self.rank

  def within(self, part: str) -> "LoraConfig":
    """Return the same for the kernels of a part of a layer."""
    inside = [t for t in self.targets if t.startswith(f"{part}.")]
    return LoraConfig(
      self.rank if inside else 0,
      self.alpha,
      tuple(t.removeprefix(f"{part}.") for t in inside),
    )


NONE = LoraConfig(rank=0, alpha=1.0, targets=())


class Adapter(nnx.Module):
  """(alpha / rank) (x A) B."""

  def __init__(
    self,
    config: LoraConfig,
    sizes: dict[str, int],
    letters: str,
    *,
    rngs: nnx.Rngs,
  ):
    named = letters.split()
    outputs = 2 if letters.endswith("N H") else 1
    self.inputs = len(named) - outputs
    self.scale = config.scale
    sizes = sizes | {"r": config.rank}
    first, last = named[: self.inputs], named[self.inputs :]
    self.down = weight(rngs, " ".join([*first, "r"]), sizes)
    self.up = weight(rngs, " ".join(["r", *last]), sizes, scale=0.0)

  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    down, up = (w[...].astype(x.dtype) for w in (self.down, self.up))
    return self.scale * jnp.tensordot(
      jnp.tensordot(x, down, self.inputs), up, 1
    )


class Adapters(nnx.Module):
  """The adapters of some kernels, by their names."""

  def __init__(
    self,
    config: LoraConfig,
    sizes: dict[str, int],
    kernels: Mapping[str, str],
    *,
    rngs: nnx.Rngs,
  ):
    for name in config.targets if config.rank else ():
      setattr(self, name, Adapter(config, sizes, kernels[name], rngs=rngs))

  def add(
    self, name: str, x: Float[Array, "..."], y: Float[Array, "..."]
  ) -> Float[Array, "..."]:
    """Return y = x W with what the adapter of W adds, if it has one."""
    adapter = getattr(self, name, None)
    return y if adapter is None else y + adapter(x)


def merge_kernel(kernel: Any, down: Any, up: Any, config: LoraConfig) -> Any:
  """Return W + (alpha / rank) A B of each layer, in the type of W."""
  layers, rank = kernel.shape[0], config.rank
  product = np.float32(config.scale) * (
    down.reshape(layers, -1, rank) @ up.reshape(layers, rank, -1)
  )
  return (kernel + product.reshape(kernel.shape)).astype(kernel.dtype)
