"""What a run says about itself: a progress line, a JSONL file, tensorboard."""

import json
import pathlib
import time
from typing import Any

import jax


class MetricLog:
  """Writes metrics one step late, so that the device never waits for us.

  Rows go to <folder>/metrics.jsonl and, every log_every steps, scalars to
  <folder>/tensorboard. On a terminal a progress bar shows step, loss, steps/s
  and the time left; elsewhere a line is printed every log_every steps.
  """

  def __init__(
    self, folder: pathlib.Path, *, start: int, total: int, log_every: int
  ):
    import tensorboardX
    from rich import progress

    self._total = total
    self._log_every = log_every
    self._previous: tuple[int, Any] | None = None
    self._began = time.monotonic()
    self._start = start
    rows = folder / "metrics.jsonl"
    _forget(rows, start)
    self._rows = rows.open("a", buffering=1)
    self._board = tensorboardX.SummaryWriter(
      str(folder / "tensorboard"), purge_step=start or None
    )
    self._bar = progress.Progress(
      progress.TextColumn("step"),
      progress.MofNCompleteColumn(),
      progress.BarColumn(),
      progress.TextColumn("loss {task.fields[loss]:.4f}"),
      progress.TextColumn("{task.fields[rate]:.2f} steps/s"),
      progress.TimeRemainingColumn(),
    )
    self._task = self._bar.add_task(
      "train", completed=start, total=total, loss=float("nan"), rate=0.0
    )
    if self._bar.console.is_terminal:
      self._bar.start()

  def write_previous(self, step: int, metrics: Any) -> None:
    """Take the metrics of a step and write those of the step before."""
    previous, self._previous = self._previous, (step, metrics)
    if previous is not None:
      self._write(*previous)

  def _write(self, step: int, metrics: Any) -> None:
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    rate = (step + 1 - self._start) / (time.monotonic() - self._began)
    self._rows.write(json.dumps({"step": step, **values}) + "\n")
    self._bar.update(
      self._task, completed=step + 1, loss=values["loss"], rate=rate
    )
    if (step + 1) % self._log_every and step + 1 != self._total:
      return
    for name, value in {**values, "steps_per_second": rate}.items():
      self._board.add_scalar(f"train/{name}", value, step)
    if not self._bar.console.is_terminal:
      left = (self._total - step - 1) / rate
      print(
        f"step {step + 1}/{self._total}  loss {values['loss']:.4f}  "
        f"{rate:.2f} steps/s  {left:.0f} s left",
        flush=True,
      )

  def close(self) -> None:
    """Write the last step and close the files."""
    if self._previous is not None:
      self._write(*self._previous)
    self._bar.stop()
    self._rows.close()
    self._board.close()


def _forget(rows: pathlib.Path, start: int) -> None:
  """Drop the rows of steps that are about to be taken again."""
  if not rows.is_file():
    return
  kept = []
  for line in rows.read_text().splitlines():
    try:
      step = json.loads(line)["step"]
    except ValueError:
      break  # Torn where the process was killed.
    if step < start:
      kept.append(line + "\n")
  partial = rows.with_name(f"{rows.name}.partial")
  partial.write_text("".join(kept))
  partial.replace(rows)
