"""Running `mocha` as users do: in a process of its own, or in several."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.py"


# As in conftest.py: compile in haste.
HASTE = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)


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


def on_devices(count: int) -> dict[str, str]:
  """Return what the environment of a process on so many devices has."""
  flags = f"{HASTE} --xla_force_host_platform_device_count={count}"
  return {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}


def start(
  *arguments: object, cwd: pathlib.Path, devices: int, **environment: str
) -> subprocess.Popen:
  """Start a verb on so many devices, and do not wait for it."""
  code = "import sys; from mocha_jax import main; sys.exit(main.run())"
  return subprocess.Popen(
    [sys.executable, "-c", code, *map(str, arguments)],
    cwd=cwd,
    env=os.environ | on_devices(devices) | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def start_together(
  count: int, *arguments: object, cwd: pathlib.Path, devices: int
) -> list[subprocess.Popen]:
  """Start a verb in so many processes of so many devices each."""
  where = ["--coordinator", f"localhost:{free_port()}", "--processes", count]
  return [
    start(*arguments, *where, "--process", i, cwd=cwd, devices=devices)
    for i in range(count)
  ]


def free_port() -> int:
  """Return a port that nobody listens on."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def ends(processes: Sequence[subprocess.Popen]) -> list[str]:
  """Wait until all have ended well; return what each printed."""
  said = [process.communicate()[0] for process in processes]
  for process, text in zip(processes, said, strict=True):
    assert process.returncode == 0, text
  return said
