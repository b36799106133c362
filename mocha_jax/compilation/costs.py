"""What an instruction of a compiled program costs: operations and traffic.

Operations are those of matrix products, which alone use the matrix units: a
multiply-add is 2. Traffic is what is read from and written to the chip's main
memory; of an array that is only sliced, or updated in place, the slice counts.
"""

import functools
import re

from mocha_jax.compilation import hlo
from mocha_jax.compilation.hlo import Computation, Instruction, Program

_SLICES = ("dynamic-slice", "slice", "gather")
_SAME = ("bitcast", "reshape", "get-tuple-element", "copy", "convert")
_PASSED = ("tuple", *hlo.COLLECTIVES)  # What they move counts elsewhere.
_FREE = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "after-all",
  "partition-id",
  "replica-id",
  "iota",
  "opt-barrier",
}


class Costs:
  """Counts what the instructions of one program cost."""

  def __init__(self, program: Program):
    self._program = program

  def flops(self, computation: Computation, instruction: Instruction) -> float:
    """Return the operations of an instruction and of what it calls."""
    if instruction.opcode == "convolution":
      return _convolution(computation, instruction)
    if instruction.opcode == "dot":
      return _dot(computation, instruction)
    if instruction.opcode in ("fusion", "call"):
      return sum(map(self._total, instruction.called))
    return 0.0

  def traffic(
    self, computation: Computation, instruction: Instruction
  ) -> float:
    """Return the bytes of main memory that an instruction reads and writes."""
    if instruction.opcode in _FREE:
      return 0.0
    if instruction.opcode == "fusion":
      fused = self._program[instruction.attribute("calls") or ""]
      read = sum(
        self._read(fused.name, index, lies_in_hbm(computation, operand))
        for index, operand in enumerate(instruction.operands)
      )
      return read + self._written(fused, instruction)
    if instruction.opcode == "dynamic-update-slice":
      return 2 * _hbm(computation[instruction.operands[1]])
    if instruction.opcode in _SLICES:
      return 2 * _hbm(instruction)
    operands = (
      computation[name] for name in dict.fromkeys(instruction.operands)
    )
    return sum(map(_hbm, operands)) + _hbm(instruction)

  @functools.cache  # noqa: B019  # A Costs lives as long as its program.
  def _total(self, name: str) -> float:
    computation = self._program[name]
    return sum(self.flops(computation, i) for i in computation)

  @functools.cache  # noqa: B019
  def _read(self, name: str, index: int, in_hbm: bool) -> float:
    """Return how much of a parameter a fused computation reads."""
    if not in_hbm:
      return 0.0
    computation = self._program[name]
    parameter = computation.parameters[index]
    whole = sum(a.bytes for a in parameter.arrays)
    return min(whole, self._touched(computation, parameter))

  def _touched(self, computation: Computation, array: Instruction) -> float:
    """Return how much of an array the instructions that use it read."""
    touched = 0.0
    for user in computation.users[array.name]:
      if user.opcode in _SLICES and user.operands[0] == array.name:
        touched += sum(a.bytes for a in user.arrays)
      elif user.opcode in _SAME:
        touched += self._touched(computation, user)
      elif user.opcode in _PASSED or (
        user.opcode == "dynamic-update-slice" and user.operands[0] == array.name
      ):
        continue
      elif user.opcode == "fusion":
        touched += sum(
          self._read(user.attribute("calls") or "", index, True)
          for index, operand in enumerate(user.operands)
          if operand == array.name
        )
      else:
        touched += sum(a.bytes for a in array.arrays)
    return touched

  def _written(self, fused: Computation, instruction: Instruction) -> float:
    """Return what a fusion writes: of an update in place, the update."""
    root = fused.root
    roots = (
      [fused[name] for name in root.operands]
      if root.opcode == "tuple"
      else [root]
    )
    if len(roots) != len(instruction.arrays):
      return _hbm(instruction)
    written = 0.0
    for inner, array in zip(roots, instruction.arrays, strict=True):
      if array.space == hlo.HBM:
        written += min(array.bytes, _update(fused, inner))
    return written


def lies_in_hbm(computation: Computation, name: str) -> bool:
  """Return whether an operand lies in main memory."""
  return any(a.space == hlo.HBM for a in computation[name].arrays)


def _hbm(instruction: Instruction) -> float:
  return sum(a.bytes for a in instruction.arrays if a.space == hlo.HBM)


def _update(computation: Computation, root: Instruction) -> float:
  """Return what a fusion's result has new in it, in bytes."""
  while root.opcode in ("bitcast", "reshape"):
    root = computation[root.operands[0]]
  if root.opcode == "parameter" or root.opcode in hlo.COLLECTIVES:
    return 0.0
  if root.opcode == "dynamic-update-slice":
    root = computation[root.operands[1]]
  return sum(a.bytes for a in root.arrays)


def _dot(computation: Computation, instruction: Instruction) -> float:
  """Return 2 x outputs x contracted."""
  found = re.search(r"lhs_contracting_dims={([\d,]*)}", instruction.attributes)
  left = computation[instruction.operands[0]].arrays[0].dims
  contracted = found[1].split(",") if found and found[1] else []
  return (
    2
    * _product(instruction.arrays[0].dims)
    * _product(left[int(axis)] for axis in contracted)
  )


def _convolution(computation: Computation, instruction: Instruction) -> float:
  """Return the operations of a convolution, which products become on TPUs.

  A batch axis of a product becomes one of space, with a window and dilations
  such that only the products that there are fall inside.
  """
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
  assert labels, instruction.attributes
  left, right = (computation[n].arrays[0].dims for n in instruction.operands)
  out = instruction.arrays[0].dims
  size = lambda letters, dims, letter: dims[letters.index(letter)]
  total = 2.0 * size(labels[3], out, "b") * size(labels[3], out, "f")
  total *= size(labels[2], right, "i")
  for axis in sorted(set(labels[1]) - {"b", "f"}):
    total *= _window_products(
      size(labels[1], left, axis),
      size(labels[2], right, axis),
      size(labels[3], out, axis),
      _window(instruction.attributes, int(axis)),
    )
  return total


def _window(attributes: str, axis: int) -> dict[str, tuple[int, ...]]:
  """Read the window of one axis of space: stride, padding, dilations."""
  found = re.search(r"window={([^}]*)}", attributes)
  values = dict(part.split("=") for part in (found[1] if found else "").split())
  default = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
  return {
    key: tuple(map(int, (values[key].split("x")[axis]).split("_")))
    if key in values
    else tuple(map(int, missing.split("_")))
    for key, missing in default.items()
  }


@functools.cache
def _valid(
  left: int,
  right: int,
  out: int,
  stride: int,
  low: int,
  dilate: tuple[int, int],
) -> int:
  reach = (left - 1) * dilate[0]
  return sum(
    1
    for o in range(out)
    for k in range(right)
    if 0 <= (at := o * stride + k * dilate[1] - low) <= reach
    and at % dilate[0] == 0
  )


def _window_products(
  left: int, right: int, out: int, window: dict[str, tuple[int, ...]]
) -> int:
  """Count pairs of output and window positions that meet an input."""
  if right == 1 or out == 1:  # No more than one of them moves.
    short = max(right, out)
    return min(short, left) if short > 1 else 1
  return _valid(
    left,
    right,
    out,
    window["stride"][0],
    window["pad"][0],
    (window["lhs_dilate"][0], window["rhs_dilate"][0]),
  )


def _product(numbers) -> float:
  total = 1.0
  for number in numbers:
    total *= number
  return total
