"""A compiled program as XLA prints it: its computations, read back.

The text of a TPU program is scheduled: instructions stand in the order in which
they are started. Only what the figures of `mocha compile` need is read.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_BYTES = {
  "pred": 1,
  "s4": 0.5,
  "u4": 0.5,
  "s8": 1,
  "u8": 1,
  "f8e4m3fn": 1,
  "f8e5m2": 1,
  "s16": 2,
  "u16": 2,
  "bf16": 2,
  "f16": 2,
  "s32": 4,
  "u32": 4,
  "f32": 4,
  "s64": 8,
  "u64": 8,
  "f64": 8,
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_HEAD = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(")
# Of what runs beside the main thread, as on SparseCores, it says where.
_END = re.compile(r'}(, execution_thread="[^"]*")?$')

HBM, VMEM, HOST = 0, 1, 5  # Memory spaces.
COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of a program; space: the memory that it lies in."""

  dtype: str
  dims: tuple[int, ...]
  space: int

  @property
  def bytes(self) -> float:
    """How much it holds, without the padding of its tiles."""
    return math.prod(self.dims) * _BYTES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction.

  shape: of its result, as text; operands: names; attributes: the rest, as text.
  """

  name: str
  opcode: str
  shape: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  @functools.cached_property
  def arrays(self) -> tuple[Array, ...]:
    """The arrays of the result; several if it is a tuple."""
    return tuple(_arrays(self.shape))

  @functools.cached_property
  def scope(self) -> str:
    """Where in the model's code it comes from: scopes joined by slashes."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""

  def attribute(self, key: str) -> str | None:
    """Return the first name that an attribute such as `body=` gives."""
    found = re.search(rf"\b{key}=%([\w.\-]+)", self.attributes)
    return found[1] if found else None

  @property
  def called(self) -> tuple[str, ...]:
    """The computations that run as part of it."""
    keys = ("calls", "to_apply", "body", "condition")
    return tuple(c for c in map(self.attribute, keys) if c)

  @property
  def target(self) -> str:
    """What a custom call calls."""
    found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
    return found[1] if found else ""

  @property
  def channel(self) -> str:
    """What the pieces of one collective have in common."""
    found = re.search(r"channel_id=(\d+)", self.attributes)
    return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions in order, by name."""

  name: str
  instructions: Mapping[str, Instruction]

  def __iter__(self) -> Iterator[Instruction]:
    return iter(self.instructions.values())

  def __getitem__(self, name: str) -> Instruction:
    return self.instructions[name]

  @functools.cached_property
  def root(self) -> Instruction:
    """The instruction whose result is the computation's."""
    return next(i for i in self if i.is_root)

  @functools.cached_property
  def parameters(self) -> tuple[Instruction, ...]:
    """Its parameters in order."""
    found = [i for i in self if i.opcode == "parameter"]
    return tuple(sorted(found, key=lambda i: int(i.operands[0])))

  @functools.cached_property
  def users(self) -> Mapping[str, tuple[Instruction, ...]]:
    """Who reads each instruction."""
    found: dict[str, list[Instruction]] = {i.name: [] for i in self}
    for instruction in self:
      for name in dict.fromkeys(instruction.operands):
        if name in found:
          found[name].append(instruction)
    return {name: tuple(users) for name, users in found.items()}


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled module."""

  computations: Mapping[str, Computation]
  entry: Computation

  def __getitem__(self, name: str) -> Computation:
    return self.computations[name]

  def trips(self, loop: Instruction) -> int:
    """Return how often a while loop runs: up to the number it compares with.

    Raises:
      ValueError: it does not count up to a constant.
    """
    condition = self[loop.attribute("condition") or ""]
    root = condition.root
    if root.opcode == "fusion":  # The comparison, its constant an operand.
      inner = self[root.attribute("calls") or ""].root
      limits = [condition[name] for name in root.operands]
      direction = inner.attributes
    else:
      limits = [condition[name] for name in root.operands]
      direction = root.attributes
    constants = [i for i in limits if i.opcode == "constant"]
    if len(constants) != 1 or "direction=LT" not in direction:
      raise ValueError(f"loop {loop.name} does not count up to a constant")
    return int(constants[0].operands[0])


def parse(text: str) -> Program:
  """Read the text of a compiled module."""
  computations: dict[str, Computation] = {}
  entry = ""
  name, instructions = "", {}
  for line in _lines(text):
    if head := _COMPUTATION.match(line):
      name, instructions = head[2], {}
      entry = name if head[1] else entry
    elif _END.match(line):
      computations[name] = Computation(name, instructions)
    elif head := _HEAD.match(line):
      instruction = _instruction(line, head)
      instructions[instruction.name] = instruction
  return Program(computations, computations[entry])


def _lines(text: str) -> Iterator[str]:
  """Yield the lines; some attributes of kernels go on over several."""
  whole = ""
  for line in text.splitlines():
    if any(start.match(line) for start in (_HEAD, _COMPUTATION, _END)):
      yield whole
      whole = line
    else:
      whole += line
  yield whole


def _instruction(line: str, head: re.Match[str]) -> Instruction:
  """Read `%name = shape opcode(operands), attributes`."""
  start = head.end()
  end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
  opcode = _OPCODE.match(line, end)
  assert opcode, line
  close = _closing(line, opcode.end() - 1)
  inside = line[opcode.end() : close - 1]
  if opcode[1] in ("parameter", "constant", "iota"):
    operands = (inside,)
  else:
    operands = tuple(_NAME.findall(inside))
  return Instruction(
    name=head[2],
    opcode=opcode[1],
    shape=line[start:end],
    operands=operands,
    attributes=line[close:],
    is_root=bool(head[1]),
  )


def _closing(line: str, start: int) -> int:
  """Return the place after the bracket that closes the one at start."""
  depth = 0
  for match in re.compile(r"[()]").finditer(line, start):
    depth += 1 if match[0] == "(" else -1
    if not depth:
      return match.end()
  raise AssertionError(line)


def _arrays(shape: str) -> Iterator[Array]:
  for match in _ARRAY.finditer(shape):
    dims = tuple(int(d) for d in match[2].split(",") if d)
    space = _SPACE.search(match[3] or "")
    yield Array(match[1], dims, int(space[1]) if space else HBM)
