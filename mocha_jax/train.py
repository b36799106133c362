"""The verb `train`: from a config to a trained run."""

import os
import pathlib
import time
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from data_pipelines import pipeline, provenance, sources
from data_pipelines.mixture import DataConfig
from mocha_jax import chips, run, sharding
from mocha_jax.assemble import Parts, assemble
from mocha_jax.batch import Batch
from mocha_jax.launch import processes
from mocha_jax.models import flops
from mocha_jax.sections import section
from mocha_jax.training import loop, speed, state
from mocha_jax.training.checkpoint import Checkpointer, abstract_state
from mocha_jax.training.metrics import MetricLog, Pace
from mocha_jax.training.profile import Profile
from mocha_jax.training.step import Metrics

Steps = tuple[int, int]


def train(
  config: ConfigDict,
  folder: pathlib.Path,
  *,
  profile: Steps | None = None,
  cache: pathlib.Path | None = None,
) -> None:
  """Train into a run folder, going on from its newest checkpoint.

  All processes of a run call it alike. One that has all its steps is left.

  profile: trace the steps from the first number up to the second.
  cache: where compiled programs are kept; see `keep_compiled`.

  Raises:
    ValueError: the config or the data do not fit; the folder holds a run of
      another config; the processes differ.
    InterruptedError: SIGTERM came, as where a machine is about to be taken
      away; all is saved.
  """
  keep_compiled(cache)
  with processes.hearing_sigterm() as told_to_stop:
    _train(config, folder, profile, told_to_stop)


def _train(
  config: ConfigDict,
  folder: pathlib.Path,
  profile: Steps | None,
  told_to_stop: Callable[[], bool],
) -> None:
  """Train until the end, or until told to stop."""
  given = config.to_dict()
  data = section(DataConfig, given["data"], "data")
  schedule = section(loop.LoopConfig, given["train"], "train")
  parts = assemble(config)
  _check_backbone(folder, given["trainable"]["preset"])
  rows = sharding.local_rows(parts.mesh, data.batch_size)
  batches = pipeline.batches(data, seed=given["seed"], rows=rows)
  encoded = sources.folder(data.root)
  provenance.check_trainable(encoded, given)
  processes.agree("training clips", str(batches.clips))
  codec = encoded / "codec.npz"
  folder = run.create(folder, config, codec).folder
  checkpointer = Checkpointer(
    folder / "checkpoints", keep=schedule.keep, told_to_stop=told_to_stop
  )
  processes.agree(f"newest checkpoint of {folder}", str(checkpointer.latest))
  start, total = checkpointer.latest or 0, schedule.total_steps
  trace = _profile(profile, folder, start, total)
  if start >= total:
    checkpointer.close()
    _say(
      f"nothing to do: {folder} has step {start} of {total}; for more, raise "
      "config.train.total_steps"
    )
    return
  now = _start(parts, folder, checkpointer, batches, given["seed"])
  work = _work(parts, batches.example(), data.batch_size)
  _say(work.describe())
  began = time.monotonic()
  step = _compile(parts, now, batches.example(), data.batch_size)
  log = _log(folder, work, start, schedule)
  try:
    now = loop.train(
      now,
      batches,
      step,
      schedule,
      checkpointer=checkpointer,
      log=log,
      profile=trace,
    )
  except BaseException:
    if jax.process_count() == 1:  # Else they might wait for the others.
      log.close()
      checkpointer.close()
    raise
  log.close()
  checkpointer.close()
  if int(now.step) < total:
    raise InterruptedError(
      f"told to stop: saved step {int(now.step)}; the same command goes on"
    )
  _say(f"trained for {time.monotonic() - began:.0f} s")
  _say(f"wrote {folder / 'checkpoints'}")


def keep_compiled(folder: pathlib.Path | None) -> None:
  """Keep compiled programs in a folder, for the next start.

  By default that of JAX_COMPILATION_CACHE_DIR, or else mocha_jax/xla in
  XDG_CACHE_HOME or ~/.cache.
  """
  if folder is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = pathlib.Path(home).expanduser() / "mocha_jax" / "xla"
  if folder is not None:
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


def _say(text: str) -> None:
  """Print, in the one process that does."""
  if processes.is_first():
    print(text, flush=True)


def _check_backbone(folder: pathlib.Path, preset: str) -> None:
  """Refuse to begin with a backbone that is random and stays so."""
  saved = (folder / "checkpoints").glob("*")
  if preset == "full" or any(path.name.isdigit() for path in saved):
    return
  raise ValueError(
    f"{folder} holds no imported weights, and config.trainable.preset = "
    f'"{preset}" would leave the backbone random: run `mocha import` into it '
    f'first{run.left_behind(folder)}; from scratch, train "full"'
  )


def _start(
  parts: Parts,
  folder: pathlib.Path,
  checkpointer: Checkpointer,
  batches: pipeline.Batches,
  seed: int,
) -> state.TrainState:
  """Return the state to go on from, with the batches where it stands."""
  network, optimizer, mesh = parts.network, parts.optimizer, parts.mesh
  like = abstract_state(network, optimizer, mesh)
  if checkpointer.latest is None:
    now = state.init_state(network, optimizer, mesh, seed)
  elif checkpointer.parts == {"params"}:
    params = checkpointer.restore_part("params", like.params)
    now = state.init_state(network, optimizer, mesh, seed, params)
    _say(f"starting from what was imported into {folder}")
  else:
    now = checkpointer.restore(like, batches)
    _say(f"going on from step {checkpointer.latest} of {folder}")
  whole, trained = run.count_parameters(network)
  frozen = (
    f", {trained / 1e6:.2f} M of them trained," if trained < whole else ""
  )
  _say(
    f"{whole / 1e6:.2f} M parameters{frozen} on "
    f"{mesh.size} {jax.devices()[0].platform} devices"
  )
  return now


def _compile(
  parts: Parts, now: state.TrainState, clip: Batch, batch_size: int
) -> Callable[[state.TrainState, Batch], tuple[state.TrainState, Metrics]]:
  """Compile the step, and return what runs it on a batch of this process."""
  began = time.monotonic()
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), clip
  )
  step = parts.step.lower(now, batch).compile()
  _say(f"compiled the step in {time.monotonic() - began:.0f} s")
  processes.meet("compiled")  # None may wait on devices for a compiler.

  def run(state, batch):
    return step(state, sharding.place(batch, parts.mesh, batch_size))

  return run


def _work(parts: Parts, clip: Batch, batch_size: int) -> speed.Work:
  """Say what a step over so many clips like this one does, and on what."""
  _, frames, height, width, _ = clip.latents.shape
  devices = parts.mesh.devices.flatten().tolist()
  chip = chips.chip_of(devices[0].device_kind)
  forward = flops.batch_flops(parts.model, clip, batch_size)
  return speed.Work(
    clips=batch_size,
    tokens=batch_size * frames * height * width // parts.model.patch**2,
    flops=flops.training(forward, parts.network.trained(parts.network.shapes)),
    devices=len(devices),
    chips=chips.count_chips(devices),
    devices_per_chip=chips.devices_per_chip(devices),
    peak=chip.flops if chip else None,
    chip=chip.name if chip else devices[0].device_kind,
  )


def _log(
  folder: pathlib.Path, work: speed.Work, start: int, config: loop.LoopConfig
) -> Pace:
  """Return the log of process 0, or what the others have instead."""
  if not processes.is_first():
    return Pace()
  return MetricLog(
    folder,
    work,
    start=start,
    total=config.total_steps,
    log_every=config.log_every,
  )


def _profile(
  asked: Steps | None, folder: pathlib.Path, start: int, total: int
) -> Profile | None:
  """Return the trace to make, in process 0."""
  if asked is None:
    return None
  first, end = asked
  if not start <= first < end <= total:
    raise ValueError(
      f"--profile {first}:{end}: this run takes the steps {start} up to "
      f"{total}, of which it must name some, as A:B with A below B"
    )
  return (
    Profile(folder / "profile", first, end) if processes.is_first() else None
  )
