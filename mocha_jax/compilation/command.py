"""What `mocha compile` does: one config, two side by side, a search, or all.

Each program beyond one is compiled in a process of its own, two at a time, so
that a compiler that dies takes nothing with it.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict
from rich.console import Console

from mocha_jax import sigterm, tpu_compiler
from mocha_jax.compilation import pods, report, tables, topology
from mocha_jax.compilation.report import Report

_AT_ONCE = min(2, os.cpu_count() or 1)
_RUN = "import sys; from mocha_jax.main import run; sys.exit(run())"
Job = tuple[str, Sequence[str]]  # A config's name, and more arguments.


def compile_one(
  config: ConfigDict,
  name: str,
  *,
  pod: str | None,
  slices: int | None,
  json: pathlib.Path | None,
) -> None:
  """Compile a config for a pod; print what it shows, and write it down.

  pod: the name of a topology; None takes the one that the config is made for.
  slices: None takes what the config's mesh says.

  Raises:
    ValueError: see `compile.compile_for`; or the config is made for no pod.
  """
  found = _pod(name, pod, slices, config)
  config.update_from_flattened_dict({"mesh.slice": found.slices})
  tpu_compiler.prepare_environment()
  with (
    sigterm.raised(),
    tempfile.TemporaryDirectory(prefix="mocha_compile_") as folder,
  ):
    schedules = pathlib.Path(folder)
    tpu_compiler.dump_to(schedules)
    # Only now, so that JAX and libtpu start as they must.
    import jax

    from mocha_jax.compilation import compile as compiler

    # What is made for machines that are not here cannot be loaded again.
    jax.config.update("jax_enable_compilation_cache", False)
    made = compiler.compile_for(config, found, name=name, schedules=schedules)
  Console().print(tables.show(made))
  if json is not None:
    json.write_text(made.to_json(), encoding="utf-8")
    print(f"wrote {json}")


def compare(
  names: Sequence[str],
  changes: Sequence[str],
  *,
  pod: str | None,
  slices: int | None,
) -> None:
  """Compile configs and print them side by side.

  Raises:
    ValueError: one cannot be compiled; the others are printed first.
  """
  more = [*changes, *_for(pod, slices)]
  made, failed = _compile_all([(name, more) for name in names])
  if made:
    Console().print(tables.compare(made))
  if failed:
    raise ValueError("; ".join(failed))


def search(
  config: ConfigDict,
  name: str,
  changes: Sequence[str],
  *,
  pod: str | None,
  slices: int | None,
  tries: int,
) -> None:
  """Compile the meshes and policies that promise most; print the best.

  tries: how many to compile.

  Raises:
    ValueError: nothing divides, fits or can be compiled.
  """
  found = _pod(name, pod, slices, config)
  tpu_compiler.prepare_environment()
  from mocha_jax.compilation import compile as compiler
  from mocha_jax.compilation.search import candidates

  sizes, devices = compiler.sizes(config, found)
  chosen = candidates(sizes, found, devices)[:tries]
  more = [*changes, *_for(pod, slices)]
  made, failed = _compile_all(
    [(name, [*more, *c.overrides(found.slices)]) for c in chosen]
  )
  made.sort(key=lambda r: (not r.fits, -(r.predicted_mfu or 0.0)))
  if made:
    Console().print(tables.compare(made))
  for line in failed:
    print(f"not compiled: {line}", file=sys.stderr)
  if not any(one.fits for one in made):
    raise ValueError(f"none of {len(chosen)} meshes and policies fits {found}")
  print("the best:\n  " + " ".join(_flags(made[0])))


def compile_registered() -> None:
  """Compile every experiment that is made for a pod.

  Raises:
    ValueError: one does not fit, or cannot be compiled.
  """
  made, failed = [], []
  console = Console()
  for one in _compile_each([(name, ()) for name in pods.PODS], console):
    if isinstance(one, str):
      failed.append(one)
      continue
    made.append(one)
    console.print(tables.show(one))  # Now: the rest takes an hour.
    if not one.fits:
      failed.append(f"{one.config}: does not fit {one.topology}")
  if made:
    console.print(tables.compare(made))
  if failed:
    raise ValueError("; ".join(failed))


def _pod(
  name: str, pod: str | None, slices: int | None, config: ConfigDict
) -> topology.Pod:
  """Find the pod that is asked for, or that a config is made for."""
  made_for, made_slices = pods.PODS.get(name, (None, None))
  if pod is None and made_for is None:
    raise ValueError(
      f"{name} is made for no pod: say which, as --topology v5p-1024"
    )
  if pod is None:
    return topology.parse(made_for or "", slices or made_slices or 1)
  return topology.parse(
    pod, slices or max(1, config.to_dict()["mesh"]["slice"])
  )


def _for(pod: str | None, slices: int | None) -> list[str]:
  flags = [] if pod is None else ["--topology", pod]
  return flags if slices is None else [*flags, "--slices", str(slices)]


def _flags(one: Report) -> list[str]:
  """Return what makes a report's mesh and policy."""
  axes = [f"--config.mesh.{axis}={n}" for axis, n in one.mesh.items()]
  return [
    *axes,
    f"--config.step.accumulate={one.accumulate}",
    f"--config.model.remat={one.remat}",
  ]


def _compile_all(jobs: Sequence[Job]) -> tuple[list[Report], list[str]]:
  """Compile each job; return also why some failed."""
  done = list(_compile_each(jobs, Console(stderr=True)))
  return (
    [one for one in done if isinstance(one, Report)],
    [one for one in done if isinstance(one, str)],
  )


def _compile_each(
  jobs: Sequence[Job], console: Console
) -> Iterator[Report | str]:
  """Compile each job in a process of its own; yield each when it is done.

  console: shows how many are; what is printed meanwhile must go through it.

  Yields:
    The report, or one line on why there is none, in the order of the jobs.
  """
  with (
    tempfile.TemporaryDirectory(prefix="mocha_reports_") as folder,
    concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool,
    console.status("") as status,
  ):
    files = [pathlib.Path(folder, f"{i}.json") for i in range(len(jobs))]
    done = pool.map(_compile_apart, jobs, files)
    for i in range(len(jobs)):
      status.update(f"compiled {i} of {len(jobs)} programs")
      yield next(done)


def _compile_apart(job: Job, file: pathlib.Path) -> Report | str:
  """Return the report, or one line on why there is none."""
  name, more = job
  asked = ["compile", "--config", name, *more, "--json", str(file)]
  done = subprocess.run(
    [sys.executable, "-c", _RUN, *asked],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
  )
  if done.returncode:
    said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return f"{' '.join((name, *more))}: {said[-1]}"
  return report.from_json(file.read_text(encoding="utf-8"))
