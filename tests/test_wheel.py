"""What users get from pip: the wheel alone, away from the sources."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from mocha_jax import config as configs
from tests import command

PACKAGES = ("mocha_jax", "data_pipelines", "experiments")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
  """Build the wheel from a copy of the sources; return where it lies now."""
  folder = tmp_path_factory.mktemp("wheel")
  sources, wheels, target = (folder / n for n in ("src", "dist", "installed"))
  ignore = shutil.ignore_patterns("__pycache__")
  for name in PACKAGES:
    shutil.copytree(command.ROOT / name, sources / name, ignore=ignore)
  for name in FILES:
    shutil.copy(command.ROOT / name, sources)
  pip("wheel", "--no-build-isolation", "--wheel-dir", wheels, sources)
  (wheel,) = wheels.glob("*.whl")
  pip("install", "--target", target, wheel)
  return target


def pip(*arguments: object) -> None:
  verb, *rest = map(str, arguments)
  subprocess.run(
    [sys.executable, "-m", "pip", "-q", verb, "--no-deps", *rest], check=True
  )


def test_wheel_holds_every_file_that_the_packages_need(installed):
  def files(root):
    return {
      path.relative_to(root).as_posix()
      for name in PACKAGES
      for path in (root / name).rglob("*")
      if path.is_file() and path.suffix != ".pyc"
    }

  assert files(installed) == files(command.ROOT)


def test_wheel_lists_the_experiments(installed, tmp_path):
  assert (installed / "bin" / "mocha").is_file()
  said = command.mocha("experiments", cwd=tmp_path, path=installed)
  assert [line.split()[0] for line in said.splitlines()] == configs.names()


def test_wheel_makes_data_and_trains_on_them(installed, tmp_path):
  run = command.make_run(tmp_path, path=installed)
  assert (run / "checkpoints" / "2").is_dir()
  code = "import experiments, mocha_jax; print(mocha_jax.__file__)"
  said = subprocess.run(
    [sys.executable, "-c", code],
    env={"PYTHONPATH": str(installed)},
    cwd=tmp_path,
    check=True,
    capture_output=True,
    text=True,
  )
  assert pathlib.Path(said.stdout).is_relative_to(installed)
