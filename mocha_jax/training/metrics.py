"""What a run says about itself: lines, JSONL files, tensorboard."""

import json
import pathlib
from typing import Any

import jax

from mocha_jax.training.speed import Clock, Work


class Pace:
  """Takes metrics and says nothing: the log of all processes but the first.

  It waits for the step before, so that no process runs far ahead.
  """

  def __init__(self):
    self.clock = Clock()
    self._previous: tuple[int, Any] | None = None

  def write_previous(self, step: int, metrics: Any) -> None:
    """Take the metrics of a step and write those of the step before."""
    previous, self._previous = self._previous, (step, metrics)
    if previous is not None:
      self._write(*previous)

  def _write(self, step: int, metrics: Any) -> None:
    del step
    with self.clock.measure("device"):
      jax.block_until_ready(metrics)

  def close(self) -> None:
    """Write the last step and close the files."""
    if self._previous is not None:
      self._write(*self._previous)


class MetricLog(Pace):
  """Writes metrics one step late, so that the device never waits for us.

  Rows of metrics go to <folder>/metrics.jsonl. Every log_every steps a row of
  speeds goes to <folder>/speed.jsonl, scalars of both to <folder>/tensorboard,
  and a line is printed; on a terminal a progress bar stands below. The first
  step, in which the step is compiled, counts for no speed.

  speed.jsonl: the rates of `speed.Work`; seconds of the lap by part and in
  total; host_ms_per_step, in which Python works and neither waits for data nor
  for devices nor saves.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    work: Work,
    *,
    start: int,
    total: int,
    log_every: int,
  ):
    import tensorboardX
    from rich import progress

    super().__init__()
    self._work = work
    self._total = total
    self._log_every = log_every
    self._steps = -1  # In this lap; the first step is in none.
    self._files = [
      _continue(folder / name, start)
      for name in ("metrics.jsonl", "speed.jsonl")
    ]
    self._board = tensorboardX.SummaryWriter(
      str(folder / "tensorboard"), purge_step=start or None
    )
    self._bar = progress.Progress(
      progress.TextColumn("step"),
      progress.MofNCompleteColumn(),
      progress.BarColumn(),
      progress.TextColumn("loss {task.fields[loss]:.4f}"),
      progress.TimeRemainingColumn(),
    )
    self._task = self._bar.add_task(
      "train", completed=start, total=total, loss=float("nan")
    )
    if self._bar.console.is_terminal:
      self._bar.start()

  def _write(self, step: int, metrics: Any) -> None:
    super()._write(step, metrics)
    with self.clock.measure("log"):
      values = {k: float(v) for k, v in jax.device_get(metrics).items()}
      _append(self._files[0], {"step": step, **values})
      self._bar.update(self._task, completed=step + 1, loss=values["loss"])
    self._steps += 1
    if self._steps == 0:
      self.clock.lap()
    if (step + 1) % self._log_every == 0 or step + 1 == self._total:
      speed, words = self._end_lap(step, self._total - step - 1)
      with self.clock.measure("log"):
        for name, value in {**values, **speed}.items():
          self._board.add_scalar(f"train/{name}", value, step)
        self._bar.console.print(
          f"step {step + 1}/{self._total}  loss {values['loss']:.4f}{words}",
          highlight=False,
          soft_wrap=True,
        )

  def _end_lap(self, step: int, left: int) -> tuple[dict[str, float], str]:
    """Return the speed since the last lap, by name and in words."""
    if self._steps < 1:
      return {}, ""
    lap = self.clock.lap()
    speed = self._work.rates(self._steps / lap["total"])
    busy = lap["host"] + lap["log"]
    speed["host_ms_per_step"] = 1e3 * busy / self._steps
    _append(self._files[1], {"step": step, **speed, "seconds": lap})
    self._steps = 0
    return speed, _say(speed, lap, left)

  def close(self) -> None:
    """Write the last step and close the files."""
    super().close()
    if self._bar.console.is_terminal:
      self._bar.stop()
    for file in self._files:
      file.close()
    self._board.close()


def _say(
  speed: dict[str, float], lap: dict[str, float], steps_left: int
) -> str:
  """Put the speed of a lap into words."""
  rate = speed["steps_per_second"]
  words = [
    f"{rate:.2f} steps/s",
    f"{speed['clips_per_second']:.4g} clips/s",
    f"{speed['tokens_per_second_per_chip']:,.0f} tokens/s/chip",
  ]
  if "mfu_per_chip" in speed:
    device, chip = speed["mfu_per_device"], speed["mfu_per_chip"]
    words.append(f"MFU {device:.1%} per device, {chip:.1%} per chip")
  shares = {
    "data": lap["data"],
    "step": lap["host"] + lap["device"],
    "log": lap["log"],
    "save": lap["save"],
  }
  words += [
    f"host {speed['host_ms_per_step']:.1f} ms",
    " ".join(f"{part} {s / lap['total']:.0%}" for part, s in shares.items()),
    f"{steps_left / rate:.0f} s left",
  ]
  return "  " + "  ".join(words)


def _append(file: Any, row: dict[str, Any]) -> None:
  file.write(json.dumps(row) + "\n")


def _continue(path: pathlib.Path, start: int) -> Any:
  """Open a file of rows; forget those of steps that will be taken again."""
  kept = []
  for line in path.read_text().splitlines() if path.is_file() else ():
    try:
      step = json.loads(line)["step"]
    except ValueError:
      break  # Torn where the process was killed.
    if step < start:
      kept.append(line + "\n")
  partial = path.with_name(f"{path.name}.partial")
  partial.write_text("".join(kept))
  partial.replace(path)
  return path.open("a", buffering=1)
