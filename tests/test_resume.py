import json
import os
import signal
import subprocess
import sys
import time

from mocha_jax.generation import Generator
from tests import command, numerics

STEPS = 24


def start(run, cwd):
  """Start training in a process of its own."""
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  return subprocess.Popen(
    [
      sys.executable,
      "-c",
      "import sys; from mocha_jax import main; sys.exit(main.run())",
      *("train", "--config", str(command.TINY), "--run", str(run)),
      f"--config.train.total_steps={STEPS}",
      f"--config.optim.decay_steps={STEPS + 6}",
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


def test_killed_run_goes_on_as_if_nothing_had_happened(tiny_run, tmp_path):
  data = tiny_run.parents[1]
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  finish(start(whole, data))

  victim = start(killed, data)
  rows = killed / "metrics.jsonl"
  while victim.poll() is None:
    if rows.is_file() and rows.read_text().count("\n") >= 8:
      break
    time.sleep(0.01)
  victim.send_signal(signal.SIGKILL)
  victim.communicate()
  assert victim.returncode == -signal.SIGKILL  # It had not ended by itself.
  finish(start(killed, data))

  assert [step for step, _ in losses(killed)] == [*range(STEPS)]
  assert losses(killed) == losses(whole)
  numerics.assert_same(averaged(killed), averaged(whole))


def averaged(run):
  """Read the averaged parameters at the end of a run."""
  generator = Generator.from_run(run)
  assert generator.step == STEPS
  return generator.params
