import os

import pytest

from mocha_jax import tpu_compiler
from tests import hlo_texts


def test_environment_keeps_what_is_given(monkeypatch):
  monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-8")
  for key in ("TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS"):
    monkeypatch.setenv(key, os.environ.get(key, ""))
  monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
  tpu_compiler.prepare_environment()
  assert os.environ["TPU_ACCELERATOR_TYPE"] == "v6e-8"
  assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"
  assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_bundles_count_as_often_as_their_loops_run(tmp_path):
  file = tmp_path / "0-kernel.1-01-final_bundles.txt"
  file.write_text(hlo_texts.SCHEDULE)
  found = tpu_compiler.schedules(tmp_path)
  assert found == {"kernel.1": file}
  assert tpu_compiler.executed(file) == hlo_texts.SCHEDULE_BUNDLES


def test_loop_of_unknown_length_is_refused(tmp_path):
  file = tmp_path / "schedule"
  file.write_text(hlo_texts.SCHEDULE.replace("%s2, 3 ", "%s2, %s7 "))
  with pytest.raises(ValueError, match="not after a constant number"):
    tpu_compiler.executed(file)
