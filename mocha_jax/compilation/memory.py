"""What lies in a chip's main memory when it is fullest, by kind.

What the step is given is known by its shapes; what it makes is read from the
loops of the compiled program: a loop over the layers stacks what the backward
pass needs, and its counterpart stacks gradients. The rest are temporaries.
"""

import math
from typing import Any

import jax

from mocha_jax.compilation import hlo
from mocha_jax.compilation.hlo import Computation, Instruction, Program
from mocha_jax.training.state import TrainState


def by_kind(
  program: Program, state: TrainState, batch: Any, peak: int
) -> dict[str, float]:
  """Return bytes per device by kind; those in main memory add up to the peak.

  "host" is not on the device: activations that wait in the host's memory.
  """
  kinds = {
    "parameters": _held(state.params),
    "moving average": _held(state.ema),
    "optimizer": _held(state.opt_state),
    "batch": _held(batch),
    "activations": 0.0,
    "gradients": 0.0,
  }
  host = 0.0
  for loop in _loops(program, program.entry):
    kind = "gradients" if _is_backward(program, loop) else "activations"
    for array in _stacked(program, loop):
      if array.space == hlo.HOST:
        host += array.bytes
      elif array.space == hlo.HBM:
        kinds[kind] += array.bytes
  kinds["temporaries"] = max(0.0, peak - sum(kinds.values()))
  return kinds | {"host": host}


def _held(tree: Any) -> float:
  """Return the bytes of a tree that one device holds."""
  return float(
    sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(tree)
    )
  )


def _loops(program: Program, computation: Computation) -> list[Instruction]:
  """List the loops of a computation, and those inside of them."""
  found = []
  for instruction in computation:
    if instruction.opcode == "while":
      body = program[instruction.attribute("body") or ""]
      found += [instruction, *_loops(program, body)]
  return found


def _is_backward(program: Program, loop: Instruction) -> bool:
  body = program[loop.attribute("body") or ""]
  return "transpose(" in loop.scope or bool(_loops(program, body))


def _stacked(program: Program, loop: Instruction) -> list[hlo.Array]:
  """List what a loop fills in: an entry of a stack per turn, or a sum.

  A loop with loops inside goes over the parts of a batch, and sums gradients.
  """
  body = program[loop.attribute("body") or ""]
  trips, sums = program.trips(loop), bool(_loops(program, body))
  found = []
  for index, name in enumerate(body.root.operands):
    made, array = body[name], loop.arrays[index]
    same = made.opcode == "get-tuple-element" and (
      f"index={index}" in made.attributes.split(", ")
    )
    stack = bool(array.dims) and array.dims[0] == trips
    if not same and (sums or stack):
      found.append(array)
  return found
