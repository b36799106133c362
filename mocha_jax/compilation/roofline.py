"""How long the compiled step takes, by arithmetic that cannot be flattered.

Each instruction of the scheduled program, as often as its loops run, takes

  max(FLOPs / (peak x efficiency), bytes / bandwidth)

FLOPs are those of matrix products, at most as efficient as someone measured and
published on such a chip; bytes are what it reads and writes in the chip's main
memory. A Mosaic kernel takes no less than cycles / clock either, its cycles
counted in its final schedule, which knows no stalls. Instructions run one after
another; to their sum comes what no computation covers of

  collectives    a synchronous one is exposed whole; of an asynchronous one,
                 what is left of it where the program waits for it. One that
                 the compiler has fused into matrix products goes on during
                 these alone
  copies         to and from on-chip and host memory, likewise

  predicted MFU = model FLOPs / (step time x chips x peak)
"""

import dataclasses
import pathlib
import re
from typing import Literal, Self

from mocha_jax.compilation import hlo, kernels, network
from mocha_jax.compilation.costs import Costs
from mocha_jax.compilation.hlo import Computation, Instruction, Program
from mocha_jax.compilation.topology import Generation

Phase = Literal["forward", "recomputed", "backward", "optimizer"]
PARTS = (
  "self_attention",
  "text_attention",
  "speech_attention",
  "mlp",
  "patches",
  "modulation",
  "text_projection",
  "speech_projection",
  "optimizer",
)
KERNEL = " kernel"  # Ends the part of Mosaic kernels.
_PART = re.compile(rf"\b({'|'.join(PARTS)})\b")
_ESTIMATE = re.compile(r'"estimated_cycles":"(\d+)"')
_CARRIERS = "async_collective_fusion"
# Between slices hosts send; what comes back is received under the same name.
_HOST = ("send", "send-done", "recv", "recv-done")
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
_HOSTS_DO = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class _Sum:
  """Numbers that are added up one by one."""

  def plus(self, other: Self, times: int = 1) -> Self:
    """Add another's, so many times."""
    return type(self)(
      *(
        mine + times * theirs
        for mine, theirs in zip(
          dataclasses.astuple(self), dataclasses.astuple(other), strict=True
        )
      )
    )


@dataclasses.dataclass(frozen=True)
class Work(_Sum):
  """Instructions of one part and phase, on one device.

  compute, memory: seconds that each would take alone; seconds: the larger of
  them, instruction by instruction; estimate: by the compiler's own count of
  cycles, for comparison.
  """

  flops: float = 0.0
  bytes: float = 0.0
  compute: float = 0.0
  memory: float = 0.0
  seconds: float = 0.0
  estimate: float = 0.0


@dataclasses.dataclass(frozen=True)
class Traffic(_Sum):
  """Transfers of one kind over the same axes, from one device.

  seconds: on the wires; exposed: of them, what no computation covers.
  """

  count: int = 0
  bytes: float = 0.0
  ici: float = 0.0
  dcn: float = 0.0
  exposed: float = 0.0


@dataclasses.dataclass
class Time:
  """Where the time of a step goes.

  work: by part and phase; collectives: by kind and axes; copied: seconds that
  copies take; copies: that the program waits for them.
  """

  work: dict[tuple[str, Phase], Work]
  collectives: dict[tuple[str, str], Traffic]
  copies: float = 0.0
  copied: float = 0.0

  @property
  def exposed(self) -> float:
    """Seconds of collectives that no computation covers."""
    return sum(c.exposed for c in self.collectives.values())

  @property
  def seconds(self) -> float:
    """Seconds of the step."""
    return (
      sum(w.seconds for w in self.work.values()) + self.exposed + self.copies
    )

  def sum(self, field: str, phases: tuple[Phase, ...] = ()) -> float:
    """Add up a field of all work, or of some phases."""
    return sum(
      getattr(work, field)
      for (_, phase), work in self.work.items()
      if not phases or phase in phases
    )

  def add(self, other: "Time", times: int) -> None:
    """Add what a loop's body takes."""
    for key, work in other.work.items():
      self.work[key] = self.work.get(key, Work()).plus(work, times)
    for key, traffic in other.collectives.items():
      self.collectives[key] = self.collectives.get(key, Traffic()).plus(
        traffic, times
      )
    self.copies += times * other.copies
    self.copied += times * other.copied


def predict(
  program: Program,
  generation: Generation,
  wiring: network.Wiring,
  schedules: pathlib.Path,
) -> Time:
  """Go through the program of one device and add up its time.

  schedules: where the compiler wrote down those of kernels.
  """
  return _Walk(program, generation, wiring, schedules).through(program.entry)


@dataclasses.dataclass
class _Pending:
  """A transfer under way.

  key: of a collective, None of a copy; seconds: what is left of it; channel: by
  which computations that it is fused into name it.
  """

  key: tuple[str, str] | None
  seconds: float
  channel: str = ""


@dataclasses.dataclass(frozen=True)
class _Event:
  """What an instruction does about a collective.

  name: what its start and its end have in common.
  """

  action: Literal["at once", "start", "end", "carry", "none"]
  name: str
  inner: Instruction | None = None
  inside: Computation | None = None
  kind: str = ""


class _Walk:
  """Goes through a program, instruction by instruction."""

  def __init__(
    self,
    program: Program,
    generation: Generation,
    wiring: network.Wiring,
    schedules: pathlib.Path,
  ):
    self._program = program
    self._generation = generation
    self._wiring = wiring
    self._costs = Costs(program)
    self._cycles = kernels.Schedules(schedules)

  def through(self, computation: Computation) -> Time:
    """Run a computation once."""
    time = Time({}, {})
    pending: dict[str, _Pending] = {}
    for instruction in computation:
      if instruction.opcode == "while":
        body = self.through(self._program[instruction.attribute("body") or ""])
        time.add(body, self._program.trips(instruction))
      elif instruction.opcode in ("call", "conditional"):
        raise NotImplementedError(f"{instruction.name}: a {instruction.opcode}")
      elif event := self._event(computation, instruction):
        self._collective(time, pending, computation, instruction, event)
      elif instruction.opcode.endswith("-start"):
        seconds = self._copy(instruction)
        time.copied += seconds
        pending[instruction.name] = _Pending(None, seconds)
      else:
        self._compute(time, pending, computation, instruction, "")
    return time

  def _collective(
    self,
    time: Time,
    pending: dict[str, _Pending],
    computation: Computation,
    instruction: Instruction,
    event: _Event,
  ) -> None:
    """Send, begin to send, or wait."""
    if event.action == "none":
      return
    if event.action == "carry":
      self._compute(time, pending, computation, instruction, event.name)
      return
    if event.action == "end":
      _finish(time, pending, event.name)
      return
    assert event.inner is not None and event.inside is not None
    if event.inner.opcode == "send":
      array = event.inner.arrays[0]
      sent = self._wiring.between_slices(event.kind, array.bytes)
    else:
      sent = self._wiring.collective(event.kind, event.inner, event.inside)
    key = (sent.kind, sent.axes)
    traffic = Traffic(1, sent.bytes, sent.ici, sent.dcn)
    time.collectives[key] = time.collectives.get(key, Traffic()).plus(traffic)
    # Those that are cut into pieces go on in what carries a piece; those on
    # another thread, as on a SparseCore, beside all that is computed.
    fused = event.name if event.name == event.inner.channel else ""
    pending[event.name] = _Pending(key, sent.seconds, fused)
    if event.action == "at once":
      _finish(time, pending, event.name)

  def _compute(
    self,
    time: Time,
    pending: dict[str, _Pending],
    computation: Computation,
    instruction: Instruction,
    carried: str,
  ) -> None:
    """Add an instruction's work; transfers go on meanwhile."""
    work = self._work(computation, instruction)
    if not work.seconds:
      return
    part, phase = _part_and_phase(self._scope(instruction), instruction.name)
    key = (f"{part}{KERNEL}" if kernels.is_kernel(instruction) else part, phase)
    time.work[key] = time.work.get(key, Work()).plus(work)
    free = {True: work.seconds, False: work.seconds}
    for transfer in pending.values():
      if transfer.channel and transfer.channel != carried:
        continue
      queue = transfer.key is None
      done = min(transfer.seconds, free[queue])
      transfer.seconds -= done
      free[queue] -= 0 if transfer.channel else done

  def _work(self, computation: Computation, instruction: Instruction) -> Work:
    """Apply the formula to one instruction."""
    peak = self._generation.flops / self._wiring.devices_per_chip
    bandwidth = self._generation.hbm_bandwidth / self._wiring.devices_per_chip
    reached = peak * self._generation.matmul.share
    if kernels.is_kernel(instruction):
      kernel = kernels.read(instruction)
      cycles = self._cycles.of(instruction) / self._generation.clock
      flops, moved = kernel.flops, kernel.bytes
      compute = max(cycles, flops / reached)
      estimate = compute
    else:
      flops = self._costs.flops(computation, instruction)
      moved = self._costs.traffic(computation, instruction)
      compute = flops / reached
      found = _ESTIMATE.search(instruction.attributes)
      estimate = int(found[1]) / self._generation.clock if found else 0.0
    memory = moved / bandwidth
    seconds = max(compute, memory)
    return Work(flops, moved, compute, memory, seconds, estimate)

  def _copy(self, instruction: Instruction) -> float:
    """Return the seconds of a copy: over the host's wires, or the memory's."""
    ends = instruction.arrays[:2]
    chip = self._generation
    to_host = any(array.space == hlo.HOST for array in ends)
    bandwidth = chip.pcie if to_host else chip.hbm_bandwidth
    moved = min(array.bytes for array in ends)
    return moved / (bandwidth / self._wiring.devices_per_chip)

  def _scope(self, instruction: Instruction) -> str:
    """Return where an instruction comes from; of a fusion, its product."""
    inside = [i for c in instruction.called for i in self._program[c]]
    products = [i.scope for i in inside if i.opcode in ("convolution", "dot")]
    others = [instruction.scope, *(i.scope for i in inside)]
    return next((scope for scope in (*products, *others) if scope), "")

  def _event(
    self, computation: Computation, instruction: Instruction
  ) -> _Event | None:
    """Say what an instruction does about a collective, if anything."""
    if instruction.opcode in _HOST:
      return self._by_hosts(computation, instruction)
    base, _, stage = instruction.opcode.rpartition("-")
    if instruction.opcode in hlo.COLLECTIVES:
      name, kind = instruction.name, instruction.opcode
      return _Event("at once", name, instruction, computation, kind)
    if base in hlo.COLLECTIVES and stage == "start":
      return _Event("start", instruction.name, instruction, computation, base)
    if stage == "update":
      return _Event("none", "")
    if stage == "done":
      began = computation[instruction.operands[0]]
      while began.opcode.endswith("-update"):
        began = computation[began.operands[0]]
      return _Event("end", began.name)
    for called in instruction.called:
      inside = self._program[called]
      for inner in inside:
        if inner.opcode in hlo.COLLECTIVES:
          return self._fused(instruction, inner, inside)
    return None

  def _by_hosts(
    self, computation: Computation, instruction: Instruction
  ) -> _Event:
    """Say what an instruction does about a transfer between slices."""
    if instruction.opcode in ("send-done", "recv"):
      return _Event("none", "")
    began = instruction
    if instruction.opcode == "recv-done":
      began = computation[instruction.operands[0]]
    name, kind = (
      found.search(began.attributes) for found in (_RENDEZVOUS, _HOSTS_DO)
    )
    if not (name and kind):
      raise NotImplementedError(f"{began.name}: a {began.opcode} of its own")
    if instruction.opcode == "recv-done":
      return _Event("end", name[1])
    what = kind[1].lower().replace("_", "-")
    return _Event("start", name[1], instruction, computation, what)

  def _fused(
    self, instruction: Instruction, inner: Instruction, inside: Computation
  ) -> _Event:
    """Say what an instruction does that has a collective inside."""
    targets = {i.target for i in inside}
    opcodes = {i.opcode for i in inside}
    kind = inner.opcode
    if kind == "all-reduce" and "dynamic-slice" in opcodes:
      kind = "reduce-scatter"  # Each device keeps its part of the sum.
    if instruction.opcode in ("async-start", "call-start"):
      return _Event("start", instruction.name, inner, inside, kind)
    if "AsyncCollectiveDone" in targets:
      return _Event("end", inner.channel)
    if "AsyncCollectiveStart" in targets:
      return _Event("start", inner.channel, inner, inside, kind)
    if instruction.name.startswith(_CARRIERS) or inside.name.startswith(
      _CARRIERS
    ):
      return _Event("carry", inner.channel)
    return _Event("at once", instruction.name, inner, inside, kind)


def _finish(time: Time, pending: dict[str, _Pending], name: str) -> None:
  """Wait for a transfer, and for those before it in its queue."""
  last = pending[name]
  for other, transfer in list(pending.items()):
    same = (transfer.key is None) == (last.key is None)
    if other != name and (not same or transfer.channel or last.channel):
      continue
    if transfer.key is None:
      time.copies += transfer.seconds
    else:
      waited = Traffic(exposed=transfer.seconds)
      time.collectives[transfer.key] = time.collectives[transfer.key].plus(
        waited
      )
    transfer.seconds = 0.0
    if other == name:
      break
  del pending[name]


def _part_and_phase(scope: str, name: str) -> tuple[str, Phase]:
  """Read what an instruction is for from where it comes from."""
  found = _PART.search(scope)
  part = found[1] if found else "other"
  if part == "optimizer":
    return part, "optimizer"
  if "rematted_computation" in scope or ".remat" in name:
    return part, "recomputed"
  return part, "backward" if "transpose(" in scope else "forward"
