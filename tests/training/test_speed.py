import dataclasses
import json
import time

import jax.numpy as jnp
import pytest

from mocha_jax.training.metrics import MetricLog
from mocha_jax.training.speed import PARTS, Clock, Work

WORK = Work(
  clips=8,
  tokens=4000,
  flops={"mlp": 3e12, "patches": 1e12},
  devices=4,
  chips=2,
  devices_per_chip=2,
  peak=100e12,
  chip="Chip",
)


def test_lap_has_the_seconds_of_every_part_and_starts_anew():
  clock = Clock()
  with clock.measure("data"):
    time.sleep(0.01)
  lap = clock.lap()
  assert lap.keys() == {*PARTS, "total"}
  assert 0.01 <= lap["data"] <= lap["total"]
  assert lap["save"] == 0
  assert clock.lap()["data"] == 0


def test_time_of_what_fails_is_counted_too():
  clock = Clock()
  with pytest.raises(KeyError), clock.measure("save"):
    raise KeyError
  assert clock.lap()["save"] > 0


def test_rates_follow_from_the_work_of_a_step():
  assert WORK.rates(10.0) == {
    "steps_per_second": 10,
    "clips_per_second": 80,
    "tokens_per_second_per_chip": 20_000,
    "flops_per_second_per_device": 10e12,
    "flops_per_second_per_chip": 20e12,
    "mfu_per_device": pytest.approx(0.2),
    "mfu_per_chip": pytest.approx(0.2),
  }


def test_chip_of_which_half_is_used_has_half_the_mfu_of_its_device():
  half = dataclasses.replace(WORK, devices=2).rates(10.0)
  assert half["mfu_per_device"] == pytest.approx(2 * half["mfu_per_chip"])


def test_without_a_peak_there_is_no_mfu_and_it_says_so():
  work = dataclasses.replace(WORK, peak=None, chip="cpu")
  assert not [name for name in work.rates(10.0) if "mfu" in name]
  assert "no MFU: no peak is published" in work.describe()


def test_formula_and_peak_are_stated():
  said = WORK.describe()
  assert "mlp 75.0%, patches 25.0%" in said
  assert "MFU = model FLOPs x steps/s / (4 devices on 2 chips (Chip)" in said
  assert "x 100 TFLOP/s per chip, 50 per device" in said


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder, steps, *, start=0, total=6):
  log = MetricLog(folder, WORK, start=start, total=total, log_every=2)
  for step in steps:
    log.write_previous(step, {"loss": jnp.asarray(float(step))})
  log.close()


def test_log_has_every_loss_and_a_speed_every_so_many_steps(tmp_path, capsys):
  write(tmp_path, range(6))
  assert [row["loss"] for row in read(tmp_path / "metrics.jsonl")] == [
    *range(6)
  ]
  laps = read(tmp_path / "speed.jsonl")
  assert [lap["step"] for lap in laps] == [1, 3, 5]
  for lap in laps:
    seconds = lap["seconds"]
    assert sum(seconds[part] for part in PARTS) <= seconds["total"]
    assert lap["host_ms_per_step"] > 0
  # The first lap is of one step, since the first step is in none.
  first = laps[0]
  assert first["steps_per_second"] == pytest.approx(
    1 / first["seconds"]["total"]
  )
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in lines] == ["2/6", "4/6", "6/6"]
  assert "MFU" in lines[-1] and "host" in lines[-1] and "data 0%" in lines[-1]


def test_log_forgets_steps_that_are_taken_again(tmp_path):
  write(tmp_path, range(6))
  with (tmp_path / "metrics.jsonl").open("a") as rows:
    rows.write('{"step": 6, "lo')  # Torn.
  write(tmp_path, range(3, 6), start=3)
  assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [
    *range(6)
  ]
  assert [lap["step"] for lap in read(tmp_path / "speed.jsonl")] == [1, 5]
