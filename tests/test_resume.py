import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mocha_jax.generation import Generator
from tests import command, numerics

NEVER = 1_000_000  # Steps that no run gets to.


def start(run, cwd, steps):
  """Start training in a process of its own."""
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  return subprocess.Popen(
    [
      sys.executable,
      "-c",
      "import sys; from mocha_jax import main; sys.exit(main.run())",
      *("train", "--config", str(command.TINY), "--run", str(run)),
      f"--config.train.total_steps={steps}",
      f"--config.optim.decay_steps={NEVER}",
      "--config.train.save_every=3",
    ],
    cwd=cwd,
    env=environment | {"PYTHONPATH": str(command.ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def losses(run):
  rows = (run / "metrics.jsonl").read_text().splitlines()
  return [(row["step"], row["loss"]) for row in map(json.loads, rows)]


def finish(process):
  printed, _ = process.communicate()
  assert process.returncode == 0, printed


@pytest.fixture(scope="module")
def stopped(tiny_run, tmp_path_factory):
  """Runs that signals came to in the middle; what the processes returned."""
  found = {}
  for number in (signal.SIGKILL, signal.SIGTERM):
    run = tmp_path_factory.mktemp("stopped") / number.name
    victim = start(run, tiny_run.parents[1], NEVER)
    rows = run / "metrics.jsonl"
    while victim.poll() is None:
      if rows.is_file() and rows.read_text().count("\n") >= 8:
        break
      time.sleep(0.01)
    victim.send_signal(number)
    printed, _ = victim.communicate()
    found[number] = run, len(losses(run)), victim.returncode, printed
  return found


@pytest.fixture(scope="module")
def end(stopped):
  """A step after all that the stopped runs came to."""
  return 3 + max(steps for _, steps, _, _ in stopped.values())


@pytest.fixture(scope="module")
def whole(end, tiny_run, tmp_path_factory):
  """A run that nothing happened to."""
  run = tmp_path_factory.mktemp("runs") / "whole"
  finish(start(run, tiny_run.parents[1], end))
  return run


def test_signals_end_a_run(stopped):
  *_, code, _ = stopped[signal.SIGKILL]
  assert code == -signal.SIGKILL  # It had not ended by itself.
  *_, code, said = stopped[signal.SIGTERM]
  assert code == 2, said


def test_run_that_is_told_to_stop_saves_the_step_where_it_is(stopped):
  run, steps, _, said = stopped[signal.SIGTERM]
  assert max(int(p.name) for p in (run / "checkpoints").iterdir()) == steps
  assert f"told to stop: saved step {steps}; the same command" in said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_run_goes_on_as_if_nothing_had_happened(
  number, stopped, end, whole, tiny_run
):
  run = stopped[number][0]
  finish(start(run, tiny_run.parents[1], end))
  assert [step for step, _ in losses(run)] == [*range(end)]
  assert losses(run) == losses(whole)
  numerics.assert_same(averaged(run, end), averaged(whole, end))


def averaged(run, step):
  """Read the averaged parameters at the end of a run."""
  generator = Generator.from_run(run)
  assert generator.step == step
  return generator.params
