"""The verb `train`: from a config to a trained run."""

import pathlib
import time

import jax
from ml_collections import ConfigDict

from data_pipelines import pipeline
from data_pipelines.mixture import DataConfig
from mocha_jax import run, sharding
from mocha_jax.diffusion.flow import FlowConfig
from mocha_jax.sections import section
from mocha_jax.training import loop, optim, state, step
from mocha_jax.training.checkpoint import Checkpointer, abstract_state
from mocha_jax.training.metrics import MetricLog


def train(config: ConfigDict, folder: pathlib.Path) -> pathlib.Path:
  """Train into a run folder, going on from its newest checkpoint.

  Returns:
    The folder of the checkpoints.

  Raises:
    ValueError: the config or the data do not fit; or the folder holds a run
      of another config.
  """
  given = config.to_dict()
  data = section(DataConfig, given["data"], "data")
  schedule = section(loop.LoopConfig, given["train"], "train")
  network = run.make_network(config)
  optim_config = section(optim.OptimConfig, given["optim"], "optim")
  _check_schedule(optim_config, schedule.total_steps)
  optimizer = optim.make_optimizer(optim_config, network.letters)
  mesh = sharding.make_mesh(section(sharding.MeshConfig, given["mesh"], "mesh"))
  step_config = section(step.StepConfig, given["step"], "step")
  _check_batch(data.batch_size, step_config.accumulate, mesh)
  train_step = step.make_train_step(
    network,
    optimizer,
    section(FlowConfig, given["flow"], "flow"),
    step_config,
    mesh,
  )
  batches = pipeline.batches(
    data,
    seed=given["seed"],
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  root = pathlib.Path(data.root)
  folder = run.create(folder, config, root / "encoded" / "codec.npz").folder
  checkpointer = Checkpointer(folder / "checkpoints", keep=schedule.keep)
  if checkpointer.latest is None:
    now = state.init_state(network, optimizer, mesh, given["seed"])
  else:
    like = abstract_state(network, optimizer, mesh)
    now = checkpointer.restore(like, batches)
    print(f"going on from step {checkpointer.latest} of {folder}")
  print(
    f"{run.count_parameters(network) / 1e6:.2f} M parameters on "
    f"{mesh.size} {jax.devices()[0].platform} devices"
  )
  log = MetricLog(
    folder,
    start=int(now.step),
    total=schedule.total_steps,
    log_every=schedule.log_every,
  )
  began = time.monotonic()
  try:
    loop.train(
      now,
      batches,
      lambda s, batch: train_step(s, sharding.place(batch, mesh)),
      schedule,
      checkpointer=checkpointer,
      log=log,
    )
  finally:
    log.close()
    checkpointer.close()
  print(f"trained for {time.monotonic() - began:.0f} s")
  return folder / "checkpoints"


def _check_schedule(config: optim.OptimConfig, total_steps: int) -> None:
  """Refuse to go on where the learning rate is 0."""
  if config.schedule == "cosine" and total_steps > config.decay_steps:
    raise ValueError(
      f"config.train.total_steps = {total_steps} goes beyond "
      f"config.optim.decay_steps = {config.decay_steps}, where the learning "
      "rate is 0: raise decay_steps too"
    )


def _check_batch(batch_size: int, accumulate: int, mesh) -> None:
  """Refuse a batch that does not divide over the mesh and the parts."""
  parts = sharding.batch_shards(mesh) * accumulate
  if batch_size % parts:
    raise ValueError(
      f"config.data.batch_size = {batch_size} must be a multiple of "
      f"data x fsdp x config.step.accumulate = {parts}"
    )
