"""Running `mocha` as users do: in a process of its own, on one device."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.py"


def mocha(
  *arguments: object, cwd: pathlib.Path, path: pathlib.Path = ROOT
) -> str:
  """Run a verb with the packages that lie in `path`; return what it prints."""
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  script = path / "bin" / "mocha"  # What pip installs; sources have none.
  code = "import sys; from mocha_jax import main; sys.exit(main.run())"
  command = [script] if script.exists() else [sys.executable, "-c", code]
  done = subprocess.run(
    [*command, *map(str, arguments)],
    cwd=cwd,
    env=environment | {"PYTHONPATH": str(path)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  assert done.returncode == 0, f"mocha {arguments}:\n{done.stdout}"
  return done.stdout


def make_run(folder: pathlib.Path, path: pathlib.Path = ROOT) -> pathlib.Path:
  """Make data and train on them, in an empty folder; return the run."""
  for verb in (("data", "toy"), ("data", "encode"), ("train",)):
    mocha(*verb, "--config", TINY, cwd=folder, path=path)
  return folder / "runs" / "tiny"
