"""A trace of some steps, as xprof and TensorBoard show it."""

import dataclasses
import pathlib
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Profile:
  """Traces the steps first .. end - 1 of this process into a folder."""

  folder: pathlib.Path
  first: int
  end: int

  def at(self, step: int, state: Any) -> None:
    """Begin or end the trace, if this is where, once the devices are idle."""
    if step not in (self.first, self.end):
      return
    jax.block_until_ready(state)
    if step == self.first:
      jax.profiler.start_trace(self.folder)
    else:
      jax.profiler.stop_trace()
      print(f"wrote {self.folder}: steps {self.first} to {self.end - 1}")
