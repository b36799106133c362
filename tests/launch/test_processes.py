"""Real processes on this machine, through JAX's coordinator and gloo.

Two processes of two devices begin a run, started by the Slurm script. It is
gone on with by two processes, by one of four devices, and by four of two
devices, whose mesh lays each clip over two of them; beside the last, by one
process of eight devices.
"""

import importlib.resources
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mocha_jax.generation import Generator
from mocha_jax.launch import processes
from tests import command, numerics

HALF, END = 2, 4
# Eight devices: those of two processes hold the same clips.
PAIRS = tuple(f"--config.mesh.{a}=2" for a in ("fsdp", "context", "tensor"))


def arguments(run: pathlib.Path, steps: int) -> list[object]:
  return [
    *("--config", command.TINY, "--run", run),
    f"--config.train.total_steps={steps}",
    "--config.data.batch_size=8",
    "--config.optim.schedule=constant",
    "--config.train.save_every=2",
  ]


@pytest.fixture(scope="module")
def data(tiny_run) -> pathlib.Path:
  return tiny_run.parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(data, folder) -> pathlib.Path:
  """The run of one process with four devices, from its beginning."""
  given = ("train", *arguments(folder / "alone", END))
  (said,) = command.ends(
    [command.start(*given, cwd=data, devices=4, JAX_LOG_COMPILES="1")]
  )
  (folder / "alone" / "said.txt").write_text(said)
  return folder / "alone"


@pytest.fixture(scope="module")
def begun(data, folder) -> pathlib.Path:
  """The first half of a run of two processes with two devices each."""
  programs = folder / "bin"
  programs.mkdir()
  srun = pathlib.Path(__file__).with_name("standin_srun.py")
  code = "import sys; from mocha_jax import main; sys.exit(main.run())"
  for name, line in (
    ("srun", f'{sys.executable} {srun} "$@"'),
    ("mocha", f"{sys.executable} -c '{code}' \"$@\""),
  ):
    (programs / name).write_text(f"#!/bin/sh\nexec {line}\n")
    (programs / name).chmod(0o755)
  script = importlib.resources.files("mocha_jax.launch") / "slurm.sh"
  slurm = {
    "PATH": f"{programs}:{os.environ['PATH']}",
    "SLURM_JOB_ID": str(job()),
    "SLURM_NTASKS": "2",
  }
  done = subprocess.run(
    ["bash", str(script), *map(str, arguments(folder / "begun", HALF))],
    cwd=data,
    env=os.environ | command.on_devices(2) | slurm,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout
  assert "2 processes, coordinator localhost:" in done.stdout
  return folder / "begun"


def job() -> int:
  """Return a job of Slurm for which JAX takes a port that is free."""
  for number in range(1, 4096):
    with socket.socket() as port:
      if port.connect_ex(("localhost", 65535 - 4095 + number)):
        return number
  raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def gone_on(data, folder, begun):
  """Goes on with the begun run, in so many processes, on so many devices."""

  def go(count: int, devices: int, *more: str) -> pathlib.Path:
    run = folder / f"{count}x{devices}"
    shutil.copytree(begun, run)
    given = ["train", *arguments(run, END), *more]
    if count == 1:
      started = [command.start(*given, cwd=data, devices=devices)]
    else:
      started = command.start_together(count, *given, cwd=data, devices=devices)
    first = command.ends(started)[0]
    assert f"going on from step {HALF}" in first
    return run

  return go


def losses(run: pathlib.Path) -> list[float]:
  """Return the loss of every step; each is there once, in order."""
  rows = (run / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(row) for row in rows]
  assert [row["step"] for row in steps] == [*range(len(steps))]
  return [row["loss"] for row in steps]


def assert_losses_agree(ours: list[float], theirs: list[float]) -> None:
  numerics.assert_close(np.array(ours), np.array(theirs), np.float32)


def assert_checkpoints_agree(ours: pathlib.Path, theirs: pathlib.Path) -> None:
  ours_end, theirs_end = (Generator.from_run(run) for run in (ours, theirs))
  assert ours_end.step == theirs_end.step == END
  # As one: Adam makes much of the rounding of what has hardly a gradient.
  together = lambda tree: np.concatenate(
    [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)]
  )
  numerics.assert_close(
    together(ours_end.params), together(theirs_end.params), np.float32
  )


def test_step_is_compiled_once_in_a_run(alone):
  said = (alone / "said.txt").read_text()
  assert said.count("Finished XLA compilation of jit(step)") == 1


def test_two_processes_under_slurm_train_like_one(alone, begun):
  assert_losses_agree(losses(begun), losses(alone)[:HALF])


def test_each_process_writes_its_part_of_a_checkpoint(begun):
  # Of the moments many are zero still, which compresses to nothing.
  for part, least in dict(params=0.4, ema=0.4, opt_state=0.25).items():
    item = begun / "checkpoints" / str(HALF) / part
    written = [
      sum(f.stat().st_size for f in (item / f"ocdbt.process_{i}").rglob("*"))
      for i in range(2)
    ]
    assert min(written) > least * sum(written), (part, written)


def test_one_process_goes_on_where_two_stopped(alone, gone_on):
  run = gone_on(1, 4)
  assert_losses_agree(losses(run), losses(alone))
  assert_checkpoints_agree(run, alone)


def test_four_processes_go_on_where_two_stopped_like_one(gone_on):
  four, one = gone_on(4, 2, *PAIRS), gone_on(1, 8, *PAIRS)
  assert len(losses(four)) == END
  assert_losses_agree(losses(four), losses(one))
  assert_checkpoints_agree(four, one)


def test_two_processes_go_on_and_save_together_when_one_is_told_to_stop(
  data, folder, begun, alone
):
  run = folder / "stopped"
  shutil.copytree(begun, run)
  given = ["train", *arguments(run, 1000)]
  pair = command.start_together(2, *given, cwd=data, devices=2)
  rows = run / "metrics.jsonl"
  while all(p.poll() is None for p in pair):
    if rows.read_text().count("\n") > END:
      break
    time.sleep(0.1)
  pair[1].send_signal(signal.SIGTERM)
  said = [process.communicate()[0] for process in pair]
  assert [process.returncode for process in pair] == [2, 2], said
  saved = max(int(p.name) for p in (run / "checkpoints").iterdir())
  for text in said:
    assert f"told to stop: saved step {saved}; the same" in text
  assert len(losses(run)) == saved < 1000
  assert_losses_agree(losses(run)[:END], losses(alone))


def test_failure_of_one_process_ends_all_with_its_words(data, folder, tmp_path):
  where = ["--coordinator", f"localhost:{command.free_port()}"]
  given = ["train", *arguments(folder / "failed", HALF), *where]
  started = [
    command.start(
      *[*given, "--processes", 2, "--process", i], cwd=cwd, devices=1
    )
    for i, cwd in enumerate((data, tmp_path))  # No data in the second.
  ]
  said = [process.communicate()[0] for process in started]
  assert [process.returncode for process in started] == [2, 2]
  for text in said:
    assert "Traceback" not in text
    assert "mocha train: process 1 of 2: no records in data/encoded" in text


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (("host:1", 2, None), "--process None: give all three, or none"),
    (("host", 2, 0), "--coordinator host must be HOST:PORT of process 0"),
    (("host:one", 2, 0), "--coordinator host:one must be HOST:PORT"),
    (("host:1", 2, 2), "--process 2 must be 0 to 1, as there are"),
    (("host:1", 2, -1), "--process -1 must be 0 to 1"),
  ],
)
def test_flags_that_do_not_fit_are_refused(given, message):
  with pytest.raises(ValueError, match=message):
    processes.join(*given)


def test_without_flags_and_cluster_a_run_is_one_process(monkeypatch):
  for name in [name for name in os.environ if name.startswith("SLURM_")]:
    monkeypatch.delenv(name)
  processes.join(None, None, None)
  assert not jax.distributed.is_initialized()
  assert processes.is_first()
  assert processes.from_first("answer", lambda: "mine") == "mine"
  processes.agree("answer", "mine")
  processes.meet("nowhere")


def test_failure_of_a_single_process_is_left_to_its_caller():
  with (
    pytest.raises(KeyError, match="lost"),
    processes.ending_together("mocha train", lambda error: None),
  ):
    raise KeyError("lost")
