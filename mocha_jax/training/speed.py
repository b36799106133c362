"""Where the time of a run goes, and how much of its chips it uses.

  MFU = model FLOPs of a step x steps/s / (chips x a chip's peak)

Model FLOPs of a step are three times those of a forward pass (`models.flops`);
what is computed twice does not count. Per device the same with devices and a
device's part of the peak, so that both agree where all devices of a chip work.
"""

import contextlib
import dataclasses
import time
import typing
from collections.abc import Iterator, Mapping
from typing import Literal

Part = Literal["data", "host", "device", "log", "save"]
PARTS: tuple[Part, ...] = typing.get_args(Part)


class Clock:
  """Adds up the seconds that each part of the loop takes.

  data: waiting for a batch; host: placing it and starting the step; device:
  waiting for a step to end; log, save. What no part covers is in the total
  alone.
  """

  def __init__(self):
    self._seconds = dict.fromkeys(PARTS, 0.0)
    self._began = time.perf_counter()

  @contextlib.contextmanager
  def measure(self, part: Part) -> Iterator[None]:
    """Count the seconds of the body for a part."""
    began = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[part] += time.perf_counter() - began

  def lap(self) -> dict[str, float]:
    """Return the seconds by part and their "total" since the last lap."""
    now = time.perf_counter()
    lap = self._seconds | {"total": now - self._began}
    self._seconds = dict.fromkeys(PARTS, 0.0)
    self._began = now
    return lap


@dataclasses.dataclass(frozen=True)
class Work:
  """What a step does, and on what.

  clips, tokens: in a batch, tokens of video; flops: of the model by part, three
  forward passes; peak: FLOP/s of a chip, None where no vendor gives it, and
  whose it is.
  """

  clips: int
  tokens: int
  flops: Mapping[str, float]
  devices: int
  chips: int
  devices_per_chip: int
  peak: float | None
  chip: str

  def rates(self, steps_per_second: float) -> dict[str, float]:
    """Return what a speed comes to: clips, tokens, FLOPs and MFU."""
    flops = steps_per_second * sum(self.flops.values())
    rates = {
      "steps_per_second": steps_per_second,
      "clips_per_second": steps_per_second * self.clips,
      "tokens_per_second_per_chip": steps_per_second * self.tokens / self.chips,
      "flops_per_second_per_device": flops / self.devices,
      "flops_per_second_per_chip": flops / self.chips,
    }
    if self.peak is not None:
      device = self.peak / self.devices_per_chip
      rates["mfu_per_device"] = flops / (self.devices * device)
      rates["mfu_per_chip"] = flops / (self.chips * self.peak)
    return rates

  def describe(self) -> str:
    """Say what the figures of a run rest on."""
    total = sum(self.flops.values())
    parts = sorted(self.flops.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {n / total:.1%}" for name, n in parts)
    said = (
      f"a step: {self.clips} clips, {self.tokens} video tokens, {total:.3e} "
      f"model FLOPs ({shares})\n"
    )
    where = f"{self.devices} devices on {self.chips} chips ({self.chip})"
    if self.peak is None:
      return said + f"no MFU: no peak is published for {where}"
    return said + (
      f"MFU = model FLOPs x steps/s / ({where} x {self.peak / 1e12:g} TFLOP/s "
      f"per chip, {self.peak / self.devices_per_chip / 1e12:g} per device, the "
      "published dense bfloat16 peak)"
    )
