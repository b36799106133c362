"""What a Mosaic kernel costs: its operations, traffic and cycles.

Operations and traffic are read from the kernel's own code, which a program
carries with it: those of its matrix products and of its windows, for every step
of its grid. Cycles are read from what the compiler writes down of its final
schedule: VLIW bundles, each as often as the loops around it run. A bundle is a
cycle when nothing stalls; a branch that is skipped is counted too, and cores
that share a grid run their part of it each.
"""

import base64
import dataclasses
import functools
import math
import pathlib
import re

from mocha_jax import tpu_compiler
from mocha_jax.compilation.hlo import Instruction

_BODY = re.compile(r'"body":"([^"]*)"')
_VECTOR = re.compile(r"(?:vector|memref)<([\dx]*?)x?(pred|[a-z]+\d+)[,>]")
_CONTRACTED = re.compile(r"dot_dimension_numbers<\[([\d, ]*)\]")
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Kernel:
  """flops and bytes of one call on one device."""

  flops: float
  bytes: float


def is_kernel(instruction: Instruction) -> bool:
  """Return whether an instruction runs a Mosaic kernel."""
  return instruction.target == "tpu_custom_call"


def read(instruction: Instruction) -> Kernel:
  """Read a kernel's operations and traffic from its code."""
  found = _BODY.search(instruction.attributes)
  assert found, instruction.name
  return _read(found[1])


@functools.cache
def _read(body: str) -> Kernel:
  from jaxlib.mlir import ir
  from jaxlib.mosaic.python import tpu

  with ir.Context() as context:
    context.allow_unregistered_dialects = True
    tpu.register_dialect(context)
    module = ir.Module.parse(base64.b64decode(body))
    text = str(module.operation.get_asm(large_elements_limit=8))
  functions = {}
  for part in text.split('"stable_mosaic.func.func"')[1:]:
    name = re.search(r'sym_name = "([\w.\-]+)"', part)
    functions[name[1] if name else ""] = part
  main = next(iter(functions.values()))
  grid = _numbers(re.search(r"iteration_bounds = array<i64: ([^>]*)>", main))
  steps = math.prod(grid)
  flops = sum(map(_product, re.findall(r'"[\w.]*tpu.matmul".*', main)))
  windows = re.findall(
    r"{[^{}]*transform_indices = @(\w+), window_bounds = array<i64: ([^>]*)>",
    main,
  )
  # The arguments of windows follow those of the grid and of what is prefetched.
  arguments = re.search(r"\^bb0\((.*)\):", main)
  blocks = re.findall(r"%arg\d+: memref<[^#]*[^>]*>>", arguments[1])  # pyright: ignore
  assert len(blocks) >= len(windows)
  moved = sum(
    _size(block) * _fetches(functions[name], grid)
    for block, (name, _) in zip(_vmem(blocks), windows, strict=False)
  )
  return Kernel(flops * steps, moved)


def _vmem(blocks: list[str]) -> list[str]:
  return [block for block in blocks if "<smem>" not in block]


def _numbers(found: re.Match[str] | None) -> tuple[int, ...]:
  return tuple(int(n) for n in found[1].split(",")) if found else ()


def _size(type_: str) -> float:
  """Return the bytes of a type such as vector<8x128xf32>."""
  found = _VECTOR.search(type_)
  assert found, type_
  bits = _BITS.search(found[2])
  return math.prod(_dims(found[1])) * (int(bits[0]) if bits else 8) / 8


def _dims(text: str) -> tuple[int, ...]:
  return tuple(int(n) for n in text.split("x") if n)


def _product(line: str) -> float:
  """Return the operations of one matrix product."""
  types = [_dims(dims) for dims, _ in _VECTOR.findall(line.split(" : (")[1])]
  contracted = _CONTRACTED.search(line)
  assert contracted, line
  axes = [int(n) for n in contracted[1].split(",")]
  return 2.0 * math.prod(types[-1]) * math.prod(types[0][a] for a in axes)


def _fetches(transform: str, grid: tuple[int, ...]) -> int:
  """Return in how many steps of the grid a window moves to another block.

  It does when a coordinate of the grid changes that its place depends on, or
  one outside of it.
  """
  returned = re.search(r"func.return\"\(([^)]*)\)", transform)
  names = [n.strip() for n in returned[1].split(",")] if returned else []
  seen = set()
  while names:
    name = names.pop()
    if name in seen:
      continue
    seen.add(name)
    made = re.search(rf"{name} = .*?\(([^)]*)\)", transform)
    names += [n.strip() for n in made[1].split(",") if n] if made else []
  used = [i for i in range(len(grid)) if f"%arg{i}" in seen]
  return math.prod(grid[: max(used) + 1]) if used else 1


class Schedules:
  """The final schedules that the compiler wrote to a folder."""

  def __init__(self, folder: pathlib.Path):
    self._files = tpu_compiler.schedules(folder)
    self._known: dict[str, int] = {}

  def of(self, instruction: Instruction) -> int:
    """Return the bundles that a kernel executes on a core.

    Raises:
      ValueError: the compiler wrote down nothing of it.
    """
    body = _BODY.search(instruction.attributes)
    assert body, instruction.name
    if body[1] not in self._known:  # Equal kernels are compiled once.
      if instruction.name not in self._files:
        raise ValueError(
          f"no schedule of kernel {instruction.name} was written"
        )
      schedule = self._files[instruction.name]
      self._known[body[1]] = tpu_compiler.executed(schedule)
    return self._known[body[1]]
