"""From a config to the parts of training: what is trained, how, and on what.

`mocha train` runs the step that comes out; on the devices of a topology it can
be compiled for machines that are not there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mocha_jax import run, sharding
from mocha_jax.diffusion.flow import FlowConfig
from mocha_jax.models import BackboneConfig, make_config
from mocha_jax.network import Network
from mocha_jax.sections import section
from mocha_jax.training import optim
from mocha_jax.training.step import StepConfig, TrainStep, make_train_step


@dataclasses.dataclass(frozen=True)
class Parts:
  """The parts."""

  model: BackboneConfig
  network: Network
  optimizer: optax.GradientTransformation
  mesh: Mesh
  step: TrainStep


def assemble(config: ConfigDict, devices: Sequence[Any] | None = None) -> Parts:
  """Make the parts that a config describes, for all devices or the given.

  Raises:
    ValueError: the config is wrong, or does not fit the devices.
  """
  given = config.to_dict()
  model = make_config(given["model"])
  network = run.make_network(config)
  optim_config = section(optim.OptimConfig, given["optim"], "optim")
  _check_schedule(optim_config, given["train"]["total_steps"])
  optimizer = optim.make_optimizer(
    optim_config, network.trained(network.letters)
  )
  mesh = sharding.make_mesh(
    section(sharding.MeshConfig, given["mesh"], "mesh"), devices
  )
  step_config = section(StepConfig, given["step"], "step")
  _check_batch(given["data"]["batch_size"], step_config.accumulate, mesh)
  frames = model.geometry.frames(given["clip"]["frames"])
  sharding.check_divides(mesh, N=model.heads, F=model.ffn, f=frames)
  flow = section(FlowConfig, given["flow"], "flow")
  step = make_train_step(network, optimizer, flow, step_config, mesh)
  return Parts(model, network, optimizer, mesh, step)


def _check_schedule(config: optim.OptimConfig, total_steps: int) -> None:
  """Refuse to go on where the learning rate is 0."""
  if config.schedule == "cosine" and total_steps > config.decay_steps:
    raise ValueError(
      f"config.train.total_steps = {total_steps} goes beyond "
      f"config.optim.decay_steps = {config.decay_steps}, where the learning "
      "rate is 0: raise decay_steps too"
    )


def _check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
  """Refuse a batch that does not divide over the mesh and the parts."""
  parts = sharding.batch_shards(mesh) * accumulate
  if batch_size % parts:
    raise ValueError(
      f"config.data.batch_size = {batch_size} must be a multiple of "
      f"slice x data x fsdp x config.step.accumulate = {parts}"
    )
