"""The loop around the step, which one can recite: save, next, step, log."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax

from mocha_jax.training.checkpoint import BatchIterator, Checkpointer
from mocha_jax.training.profile import Profile
from mocha_jax.training.speed import Clock
from mocha_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """How long, and how often: all in steps. keep: checkpoints that stay."""

  total_steps: int
  log_every: int
  save_every: int
  keep: int

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value < 1:
        raise ValueError(f"{name}={value}: at least 1")


class Log(Protocol):
  """Where a run's metrics go, and the clock that it tells the time by."""

  clock: Clock

  def write_previous(self, step: int, metrics: Any) -> None:
    """Take the metrics of a step and write those of the step before."""
    ...


def train(
  state: TrainState,
  batches: BatchIterator,
  train_step: Callable[[TrainState, Any], tuple[TrainState, Any]],
  config: LoopConfig,
  *,
  checkpointer: Checkpointer,
  log: Log,
  profile: Profile | None = None,
) -> TrainState:
  """Train from the state's step up to config.total_steps and save the end.

  Where the machine is about to be taken away, the end comes sooner, and at the
  same step in all processes.
  """
  step, time = int(state.step), log.clock.measure
  while step < config.total_steps and not checkpointer.is_preempted(step):
    if profile:
      profile.at(step, state)
    if step and step % config.save_every == 0:
      with time("save"):
        checkpointer.save(state, batches)
    with time("data"):
      batch = next(batches)  # Only after save: the iterator is part of it.
    with time("host"), jax.profiler.StepTraceAnnotation("train", step_num=step):
      state, metrics = train_step(state, batch)  # Async.
    log.write_previous(step, metrics)  # Never waits for this step.
    step += 1
  if profile:
    profile.at(step, state)
  with time("save"):
    checkpointer.save(state, batches)
  return state
