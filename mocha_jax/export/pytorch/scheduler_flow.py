"""Flow matching along a straight path, t = 0 noise to t = 1 data, by Euler.

  x_t = (1 - t) eps + t x1        x' = x + (t' - t) velocity(x, t)

The linear-quadratic times (Movie Gen) take half of the steps up to t = 0.1,
evenly, and the rest on the parabola that goes on with the same slope and ends
at 1; "shifted_linear" has t / (t + shift (1 - t)) of even times.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import (
  SchedulerMixin,
  SchedulerOutput,
)

LINEAR_END = 0.1


def linear_quadratic(steps: int) -> torch.Tensor:
  """Return the steps + 1 times from 0 to 1, float64."""
  half = steps // 2
  slope, left = LINEAR_END / half, steps - half
  curve = (1 - LINEAR_END - slope * left) / left**2
  at = torch.arange(steps + 1, dtype=torch.float64)
  return slope * at + curve * (at - half).clamp(min=0) ** 2


def shifted_linear(steps: int, shift: float) -> torch.Tensor:
  """Return the steps + 1 times from 0 to 1, float64."""
  t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
  return t / (t + shift * (1 - t))


class FlowEulerScheduler(SchedulerMixin, ConfigMixin):
  """Times and steps; `timesteps` are flow times, rising.

  num_inference_steps: unless `set_timesteps` is told otherwise.
  schedule: "linear_quadratic" or "shifted_linear", with its shift.
  """

  order = 1

  @register_to_config
  def __init__(self, num_inference_steps: int, schedule: str, shift: float):
    self.set_timesteps()

  def set_timesteps(
    self,
    num_inference_steps: int | None = None,
    device: torch.device | str | None = None,
  ) -> None:
    """Lay out so many steps, at least 2."""
    steps = num_inference_steps
    if steps is None:
      steps = self.config.num_inference_steps
    if steps < 2:
      raise ValueError(f"num_inference_steps={steps}: at least 2")
    schedule, shift = self.config.schedule, self.config.shift
    if schedule not in ("linear_quadratic", "shifted_linear"):
      raise ValueError(f"schedule {schedule!r} is unknown")
    times = (
      linear_quadratic(steps)
      if schedule == "linear_quadratic"
      else shifted_linear(steps, shift)
    )
    self.num_inference_steps = steps
    self.times = times.float().to(device)
    self.timesteps = self.times[:-1]
    self.step_index = None

  def step(
    self,
    model_output: torch.Tensor,
    timestep: torch.Tensor,
    sample: torch.Tensor,
    return_dict: bool = True,
  ) -> SchedulerOutput | tuple[torch.Tensor]:
    """Go from one of the timesteps to the next.

    The first after `set_timesteps` may be any; others must follow in their
    order, and are not looked at: to find one, the CPU waits for the device.
    """
    if self.step_index is None:
      self.step_index = int((self.timesteps == timestep).nonzero()[0])
    time, following = self.times[self.step_index : self.step_index + 2]
    self.step_index += 1
    moved = sample + (following - time) * model_output
    return SchedulerOutput(moved) if return_dict else (moved,)
