"""TPU pods by the names that Cloud gives them, and what their chips can do.

The number in a name counts TensorCores for v5p and tpu7x, which have two per
chip, and chips for v5e and v6e, which have one: v5p-1024 and tpu7x-1024 are
512 chips, v6e-256 is 256. Any shape can be asked for too, as `v5p:8x8x8`.

Sources, where a figure names no other:
  specifications   docs.cloud.google.com/tpu/docs/{v5p,v5e,v6e,tpu7x}
  names            the same pages; for tpu7x, the table of GKE's XPK
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mocha_jax import chips
from mocha_jax.sections import nearest

_GIB = 2**30

_TWO_PER_CHIP = {
  8: "2x2x1",
  16: "2x2x2",
  32: "2x2x4",
  64: "2x4x4",
  128: "4x4x4",
  256: "4x4x8",
  512: "4x8x8",
  1024: "8x8x8",
  2048: "8x8x16",
  4096: "8x16x16",
  8192: "16x16x16",
  12288: "16x16x24",
}
_ONE_PER_CHIP = {
  4: "2x2",
  8: "2x4",
  16: "4x4",
  32: "4x8",
  64: "8x8",
  128: "8x16",
  256: "16x16",
}


@dataclasses.dataclass(frozen=True)
class Measured:
  """A share of a peak that someone measured and published."""

  share: float
  source: str


_V5E_MATMUL = Measured(
  0.923,
  "XLA's product of two 8192 x 8192 bfloat16 matrices on v5e: 181.8 of 197 "
  "TFLOP/s (docs.jax.dev, Pallas, Matrix multiplication)",
)
_TPU7X_MATMUL = Measured(
  0.824,
  "a product of two 16384 x 16384 bfloat16 matrices on tpu7x: 950.1 of 1153.5 "
  "TFLOP/s per device (AI-Hypercomputer/accelerator-microbenchmarks, Ironwood)",
)


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPU; all figures per chip, bytes per second.

  shapes: of a pod, by the number in its name.
  hbm: what the compiler lets a program have, and no more than is published.
  link: one ICI link, one way; a chip has two for each dimension of the shape.
  wraps: an axis of the shape is a ring if its length is a multiple of this.
  dcn: network between slices.
  pcie: to the host's memory.
  matmul: of the peak, in matrix products.
  """

  name: str
  shapes: Mapping[int, str]
  hbm: float
  link: float
  wraps: int
  dcn: float
  pcie: float
  matmul: Measured

  @property
  def flops(self) -> float:
    """Peak of dense bfloat16 products, FLOP/s."""
    return chips.TPUS[self.name].flops

  @property
  def hbm_bandwidth(self) -> float:
    """Of the main memory."""
    return chips.TPUS[self.name].bandwidth

  @property
  def clock(self) -> float:
    """Cycles per second."""
    return chips.TPUS[self.name].clock


# link: the published bidirectional bandwidth of a chip (1,200, 400, 800, 1,200
# GB/s) over its 6, 4, 4, 6 links and two directions, times the 0.95 that an
# all-gather reached, or less where less was measured: 86 GB/s on v5p and v6e
# (jax-ml/scaling-book, "Sharded matrices"; marin-community/marin issue 6736).
# pcie: jax-ml/scaling-book, "How to think about TPUs". v5e's dcn: the pod's
# 6.4 Tb/s over 256 chips.
GENERATIONS = (
  Generation(
    "v5p",
    _TWO_PER_CHIP,
    hbm=95 * _GIB,
    link=86e9,
    wraps=4,
    dcn=50e9 / 8,
    pcie=16e9,
    matmul=_V5E_MATMUL,
  ),
  Generation(
    "v5e",
    _ONE_PER_CHIP,
    hbm=15.75 * _GIB,
    link=0.95 * 45e9,
    wraps=16,
    dcn=25e9 / 8,
    pcie=16e9,
    matmul=_V5E_MATMUL,
  ),
  Generation(
    "v6e",
    _ONE_PER_CHIP,
    hbm=31.25 * _GIB,
    link=86e9,
    wraps=16,
    dcn=100e9 / 8,
    pcie=32e9,
    matmul=_TPU7X_MATMUL,
  ),
  Generation(
    "tpu7x",
    _TWO_PER_CHIP,
    hbm=2 * 94.75 * _GIB,
    link=0.95 * 90e9,
    wraps=4,
    dcn=100e9 / 8,
    pcie=16e9,
    matmul=_TPU7X_MATMUL,
  ),
)


@dataclasses.dataclass(frozen=True)
class Pod:
  """One or several slices of a shape."""

  generation: Generation
  shape: tuple[int, ...]
  slices: int

  @property
  def chips(self) -> int:
    """Chips of all slices."""
    return self.slices * math.prod(self.shape)

  def __str__(self) -> str:
    shape = "x".join(map(str, self.shape))
    times = f"{self.slices} x " if self.slices > 1 else ""
    return f"{times}{self.generation.name} {shape}, {self.chips:,} chips"


def parse(name: str, slices: int) -> Pod:
  """Read a name such as v5p-1024, or a shape such as v5p:8x8x8.

  Raises:
    ValueError: there is no such pod.
  """
  known = {generation.name: generation for generation in GENERATIONS}
  prefix, separator, size = name.replace("v5litepod", "v5e").partition("-")
  if not separator:
    prefix, separator, size = name.partition(":")
  if prefix not in known or not separator:
    names = [f"{g.name}-{n}" for g in GENERATIONS for n in g.shapes]
    raise ValueError(f'unknown topology "{name}"{nearest(name, names)}')
  generation = known[prefix]
  if separator == "-":
    sizes = {str(n): shape for n, shape in generation.shapes.items()}
    if size not in sizes:
      raise ValueError(
        f'unknown topology "{name}": {prefix} comes as '
        f"{', '.join(f'{prefix}-{n}' for n in sizes)}"
      )
    size = sizes[size]
  if slices < 1:
    raise ValueError(f"{slices} slices: at least 1")
  return Pod(generation, _shape(name, size, generation), slices)


def _shape(name: str, size: str, generation: Generation) -> tuple[int, ...]:
  """Read 8x8x8, of as many axes as the generation's shapes have."""
  parts = size.split("x")
  example = next(iter(generation.shapes.values()))
  axes = len(example.split("x"))
  if len(parts) != axes or not all(p.isdecimal() and int(p) for p in parts):
    raise ValueError(
      f'"{name}": the shape of a {generation.name} has {axes} axes, such as '
      f"{generation.name}:{example}"
    )
  return tuple(map(int, parts))


def devices(pod: Pod) -> list[Any]:
  """Return the pod's devices, which can be compiled for but not used.

  Raises:
    ValueError: libtpu is not installed, or makes no such pod.
  """
  from jax.errors import JaxRuntimeError
  from jax.experimental import topologies

  try:
    import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ValueError(
      "compiling for TPUs needs their compiler, libtpu, which runs on any "
      "x86-64 Linux: pip install 'mocha_jax[tpu]'"
    ) from error
  name = f"{pod.generation.name}:{'x'.join(map(str, pod.shape))}"
  more = {"num_slices": pod.slices} if pod.slices > 1 else {}
  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **more
    )
  except JaxRuntimeError as error:
    raise ValueError(f"libtpu makes no {name}: {error}") from error
  return list(described.devices)
