"""What a form costs on a TPU that is not there, by the real compiler.

For what XLA builds, the compiler's own estimate. For the kernel, the largest of
three lower bounds: the bundles of its final schedule, one a cycle, which know
of no stall; the rows that its matrix units take in, one a cycle; and its bytes
over the bandwidth of the memory.
"""

import concurrent.futures
import contextlib
import dataclasses
import glob
import multiprocessing
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import topologies

from mocha_jax import chips, sharding, tpu_compiler
from mocha_jax.chips import Tpu
from mocha_jax.kernels.speech_window import pallas_tpu, shapes
from mocha_jax.kernels.speech_window.measure import forms
from mocha_jax.kernels.speech_window.measure.forms import Form
from mocha_jax.kernels.speech_window.shapes import Shape
from mocha_jax.kernels.speech_window.tiling import Tiling

# The kernels of each pass.
_KERNELS = {"forward": ("forward",), "both": ("forward", "backward")}
# The least pods that the compiler knows.
TARGETS = {
  "v5e": "v5e:2x2",
  "v5p": "v5p:2x2x1",
  "v6e": "v6e:2x2",
  "tpu7x": "tpu7x:2x2x1",
}


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one pass on one chip.

  moved: bytes to and from HBM. bound: what sets the time.
  compiling: seconds that the compiler took.
  """

  seconds: float
  moved: float
  bound: str
  compiling: float


# The cost of a shape, target, form and pass; None if that has no room in HBM.
Costs = Callable[[Shape, str, str, str], Cost | None]


@contextlib.contextmanager
def started() -> Iterator[Costs]:
  """Start the compiler, in a process of its own.

  For it reads its environment once, when it is loaded.
  """
  with (
    tempfile.TemporaryDirectory() as folder,
    concurrent.futures.ProcessPoolExecutor(
      1,
      mp_context=multiprocessing.get_context("spawn"),
      initializer=_start,
      initargs=(folder,),
    ) as child,
  ):
    yield lambda *args: child.submit(_cost, folder, *args).result()


def _start(folder: str) -> None:
  tpu_compiler.prepare_environment()
  tpu_compiler.dump_to(pathlib.Path(folder))
  jax.config.update("jax_platforms", "cpu")


def _cost(
  folder: str, of: Shape, name: str, form: str, passes: str
) -> Cost | None:
  target = chips.TPUS[name]
  # Where a chip is two devices, each gets half of the frames.
  of = dataclasses.replace(of, frames=of.frames // target.devices)
  for path in glob.glob(f"{folder}/*"):
    os.remove(path)
  jax.clear_caches()
  try:
    compiled, compiling = _compile(forms.FORMS[form], of, name, passes)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return None
  if form == forms.KERNEL:
    times, moved = _bounds_of_kernel(of, target, passes, _bundles(folder))
  else:
    times, moved = _estimate(compiled, forms.FORMS[form], of, target, passes)
  bound = max(times, key=times.__getitem__)
  return Cost(times[bound], moved * target.devices, bound, compiling)


def _compile(
  form: Form, of: Shape, target: str, passes: str
) -> tuple[Any, float]:
  """Compile for one device; return the program and the seconds it took."""
  pod = topologies.get_topology_desc(
    platform="tpu", topology_name=TARGETS[target]
  )
  alone = sharding.MeshConfig(**dict.fromkeys(sharding.AXES, 1))
  mesh = sharding.make_mesh(alone, pod.devices[:1])
  function, args = forms.build(form, of, passes)
  start = time.perf_counter()
  with jax.set_mesh(mesh):
    jitted = jax.jit(function, in_shardings=sharding.replicated(mesh))
    compiled = jitted.lower(*args).compile()
  return compiled, time.perf_counter() - start


def _estimate(
  compiled: Any, form: Form, of: Shape, target: Tpu, passes: str
) -> tuple[dict[str, float], float]:
  """Return the seconds of a program by XLA, and the bytes that it moves."""
  analysis = compiled.cost_analysis()
  moved, seconds = analysis["bytes accessed"], analysis["optimal_seconds"]
  if seconds > 0:
    return {"estimate": seconds}, moved
  # The compiler has none.
  flops = form.flops(of, both=passes == "both")
  return {
    "products": flops / target.flops * target.devices,
    "memory": moved / target.bandwidth * target.devices,
  }, moved


def _bounds_of_kernel(
  of: Shape, target: Tpu, passes: str, bundles: dict[str, int]
) -> tuple[dict[str, float], float]:
  """Return what the kernel takes at least, by bound, and its bytes."""
  moved = shapes.collapsed_bytes(of, both=passes == "both")
  if passes == "both":  # The weights p are written and read.
    weights = of.video_tokens * of.slots * of.heads
    moved += 2 * weights * of.itemsize
  steps = {kernel: _steps(of, target, kernel) for kernel in _KERNELS[passes]}
  flops = sum(
    _padded_flops(of, target, kernel) * count for kernel, count in steps.items()
  )
  return {
    "memory": moved / target.bandwidth * target.devices,
    "bundles": sum(map(bundles.__getitem__, steps)) / target.clock,
    "products": flops / (target.flops / target.devices / target.cores),
  }, moved


def _bundles(folder: str) -> dict[str, int]:
  """Return the bundles that each kernel executes on a core."""
  found = {}
  for name, schedule in tpu_compiler.schedules(pathlib.Path(folder)).items():
    kernel = re.search(r"speech_window_(forward|backward)", name)
    if kernel:
      found[kernel[1]] = tpu_compiler.executed(schedule)
  return found


def _tiling(of: Shape, target: Tpu, kernel: str) -> Tiling:
  frames = (of.batch, of.frames)
  x, key = (
    jax.ShapeDtypeStruct((*frames, *size), forms.dtype(of))
    for size in ((of.tokens, of.width), (of.slots, of.heads, of.width))
  )
  block = target.unit if kernel == "forward" else pallas_tpu.BLOCK
  return Tiling.of(x, key, block)


def _steps(of: Shape, target: Tpu, kernel: str) -> int:
  """Return the grid steps of the busiest core."""
  sizes = _tiling(of, target, kernel)
  _, parts, visits = sizes.visits().shape
  return -(-sizes.batch * parts // target.cores) * visits


def _padded_flops(of: Shape, target: Tpu, kernel: str) -> int:
  """Return the operations of a grid step, with what fills matrix units up.

  A unit holds a square of one factor. That is tokens x D in all products but
  one, out or dx, which sums over the rows of K' or V'.
  """
  sizes = _tiling(of, target, kernel)
  full = lambda n: -(-n // target.unit) * target.unit
  others = 1 if kernel == "forward" else 3
  width = full(sizes.width)
  return (
    2 * others * sizes.rows * full(sizes.block) * width
    + 2 * full(sizes.rows) * sizes.block * width
  )
