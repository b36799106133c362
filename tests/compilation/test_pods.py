import pytest

from mocha_jax import config as configs
from mocha_jax.compilation import pods, report, topology
from tests import command


@pytest.mark.parametrize("name", pods.PODS)
def test_pod_of_an_experiment_is_one_that_there_is(name):
  assert name in configs.names()
  pod = topology.parse(*pods.PODS[name])
  mesh = configs.load(name).to_dict()["mesh"]
  assert mesh["slice"] == pod.slices


@pytest.mark.slow
@pytest.mark.parametrize("name", pods.PODS)
def test_experiment_fits_its_pod(name, tmp_path):
  pytest.importorskip("libtpu", reason="the compiler for TPUs: mocha_jax[tpu]")
  file = tmp_path / "report.json"
  command.mocha("compile", "--config", name, "--json", file, cwd=tmp_path)
  made = report.from_json(file.read_text())
  assert made.fits, made.why_not
  assert made.exposed_collective_share is not None
  assert made.exposed_collective_share < 0.5
