"""`mocha compile` as users run it."""

import json
import os
import tempfile

import pytest

from mocha_jax import main
from tests import command
from tests.compilation.test_report import KEYS

TINY = str(command.TINY)


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
  """Run the verb, which must fail; return the one line that it says."""
  # libtpu is told once where to write what it compiles, in this process.
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  for key in ("LIBTPU_INIT_ARGS", "JAX_PLATFORMS"):
    monkeypatch.setenv(key, os.environ.get(key, ""))

  def run(*arguments: str) -> str:
    assert main.run(["compile", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error

  return run


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--config", TINY), "tiny.py is made for no pod: say which"),
    (("--config", TINY, "--topology", "v5q-8"), 'nearest is "v5p-8"'),
    (("--config", TINY, "--topology", "v5p-9"), "v5p comes as v5p-8, v5p-16"),
    (("--topology", "v5p-8"), "one of the arguments --config --compare --all"),
    (("--all", "--topology", "v5p-8"), "--all compiles experiments as they"),
    (("--all", "--json", "x.json"), "--json and --search go with --config"),
    (
      ("--config", TINY, "--search", "--json", "x.json"),
      "--json goes with one program",
    ),
    (("--config", TINY, "--search", "0"), "0 must be a number, at least 1"),
  ],
)
def test_what_is_asked_wrongly_is_refused_in_a_line(
  refused, arguments, message
):
  assert message in refused(*arguments)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (("mesh.fsdp=3",), "does not multiply up to 4 devices"),
    (
      ("mesh.fsdp=2", "mesh.tensor=2", "model.heads=3"),
      "3 heads (N) do not divide over tensor = 2",
    ),
    (
      ("mesh.fsdp=1", "mesh.context=4", "clip.frames=24"),
      "latent frames (f) do not divide over context = 4",
    ),
    (("data.batch_size=6",), "config.data.batch_size = 6 must be a multiple"),
    (("model.remat=atention",), 'nearest is "attention"'),
  ],
)
def test_config_that_does_not_fit_the_pod_is_refused_before_compiling(
  refused, changes, message
):
  pytest.importorskip("libtpu", reason="the compiler for TPUs: mocha_jax[tpu]")
  changed = [f"--config.{change}" for change in changes]
  given = ("--config", TINY, "--topology", "v5p-8", *changed)
  assert message in refused(*given)


@pytest.mark.slow
def test_configs_are_compared_and_written_down(tmp_path):
  pytest.importorskip("libtpu", reason="the compiler for TPUs: mocha_jax[tpu]")
  pod = ("--topology", "v5p-8", "--config.data.batch_size=4")
  file = tmp_path / "report.json"
  said = command.mocha(
    *("compile", "--config", TINY, *pod, "--json", file), cwd=tmp_path
  )
  assert f"wrote {file}" in said
  assert set(json.loads(file.read_text())) >= KEYS
  both = command.mocha("compile", "--compare", TINY, TINY, *pod, cwd=tmp_path)
  (line,) = (l for l in both.splitlines() if l.startswith("predicted MFU"))
  assert line.count("%") == 2
