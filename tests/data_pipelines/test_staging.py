import signal
import subprocess
import sys

import pytest

from data_pipelines import staging
from tests import command

# Works in a folder until it is told otherwise.
WORK = """
import pathlib, sys
from data_pipelines import staging
with staging.folder(pathlib.Path(sys.argv[1])) as stage:
  (stage / "half").mkdir()
  (stage / "half" / "a").write_text("a")
  print("begun", flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def worker(tmp_path):
  """A process that works in tmp_path."""
  process = subprocess.Popen(
    [sys.executable, "-c", WORK, str(tmp_path)],
    cwd=command.ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  with process:
    assert process.stdout and process.stdout.readline() == "begun\n"
    yield process
    process.kill()


def test_what_a_killed_process_left_is_removed_by_the_next(worker, tmp_path):
  worker.kill()
  worker.wait()
  assert (tmp_path / "staged" / "half" / "a").exists()
  with staging.folder(tmp_path) as stage:
    assert stage == tmp_path / "staged" and not [*stage.iterdir()]
  assert not [*tmp_path.iterdir()]


def test_process_that_is_told_to_end_leaves_nothing(worker, tmp_path):
  worker.send_signal(signal.SIGTERM)
  assert worker.wait() == 143
  assert not [*tmp_path.iterdir()]


def test_what_another_process_works_on_is_left_alone(worker, tmp_path):
  with (
    pytest.raises(
      ValueError, match=f"{tmp_path}: another process is writing it"
    ),
    staging.folder(tmp_path),
  ):
    pass
  assert (tmp_path / "staged" / "half" / "a").exists()
  worker.communicate()
  assert not [*tmp_path.iterdir()]


def test_nothing_stays_of_work_that_failed(tmp_path):
  with pytest.raises(ZeroDivisionError), staging.folder(tmp_path) as stage:
    (stage / "a").write_text("a")
    raise ZeroDivisionError
  assert not [*tmp_path.iterdir()]


def test_what_is_moved_takes_the_place_of_what_had_its_name(tmp_path):
  for name in ("kept", "file"):
    (tmp_path / name).write_text("old")
  (tmp_path / "records").mkdir()
  (tmp_path / "records" / "old").write_text("old")
  with staging.folder(tmp_path) as stage:
    (stage / "records").mkdir()
    (stage / "records" / "new").write_text("new")
    (stage / "file").write_text("new")
    staging.move(stage, tmp_path, "records", "file")
  assert {
    str(path.relative_to(tmp_path)): path.read_text()
    for path in tmp_path.rglob("*")
    if path.is_file()
  } == {"kept": "old", "file": "new", "records/new": "new"}
