"""What every test runs on: the CPU, seen by JAX as eight devices.

Every call of the functions that compute is checked against the shapes and
types that they are annotated with.
"""

import fcntl
import os
import pathlib

import jaxtyping
import pytest

from tests import command

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: compile in haste, and keep the result.
os.environ["XLA_FLAGS"] = " ".join(
  (
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
  )
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
  pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"
)

# Not where callers' mistakes are refused with errors of our own, and not the
# dataclasses that are pytrees: jax.tree.map fills those with anything.
CHECKED = [
  "mocha_jax.decode",
  "mocha_jax.diffusion",
  "mocha_jax.encoders.clip_text",
  "mocha_jax.encoders.interpolate",
  "mocha_jax.encoders.layers",
  "mocha_jax.encoders.t5",
  "mocha_jax.kernels",
  "mocha_jax.media",
  "mocha_jax.models",
]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")


def pytest_addoption(parser):
  parser.addoption("--run", help="folder of a finished run to play elsewhere")


@pytest.fixture
def tiny_config():
  """The config of tests/tiny.py, for the test alone to change."""
  from mocha_jax import config

  return config.load(str(command.TINY))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> pathlib.Path:
  """The folder of a run of tests/tiny.py; not to be changed.

  The first worker that asks makes it, the others wait for it.
  """
  folder = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    folder = folder.parent  # Each worker has a folder of its own in there.
  run = folder / "tiny" / "runs" / "tiny"
  with open(folder / "tiny.lock", "w", encoding="utf-8") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (folder / "tiny").exists():
      (folder / "tiny").mkdir()
      command.make_run(folder / "tiny")
  assert (run / "checkpoints").is_dir(), "it could not be made, see above"
  return run
