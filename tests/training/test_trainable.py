import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax import sharding
from mocha_jax.batch import Batch, Condition
from mocha_jax.diffusion.flow import FlowConfig
from mocha_jax.models import make_model
from mocha_jax.models.lora import LoraConfig
from mocha_jax.network import Network, joined, paths
from mocha_jax.training import optim, state, step
from mocha_jax.training.checkpoint import Checkpointer, abstract_state
from mocha_jax.training.trainable import TrainableConfig
from tests import numerics
from tests.models.test_wan import CONFIG
from tests.training.test_training import OPTIM, STEP

LORA = LoraConfig(rank=2, alpha=4.0, targets=("self_attention.query",))
PRESETS = ("full", "speech", "speech+self_attention", "speech+lora", "lora")


def make_network(preset: Any) -> Network:
  has_adapters = "lora" in preset
  config = dataclasses.replace(CONFIG, layers=1)
  if has_adapters:
    config = dataclasses.replace(config, lora=LORA)
  return Network(
    lambda rngs: make_model(config, rngs=rngs),
    TrainableConfig(preset).selection(has_adapters=has_adapters),
  )


class Clips:
  """An endless iterator of random batches, with a position."""

  def __init__(self):
    self.position = 0

  def __next__(self) -> Batch:
    rng = np.random.default_rng(self.position)
    self.position += 1
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return Batch(
      normal(2, 2, 4, 4, 4),
      Condition(
        normal(2, 5, 6),
        {"umt5": normal(2, 3, 10)},
        {"umt5": jnp.ones((2, 3), bool)},
      ),
    )

  def get_state(self):
    return {"position": self.position}

  def set_state(self, state):
    self.position = state["position"]


class Trainer:
  """A preset's step, its start with no parameter at zero."""

  def __init__(self, preset: str):
    self.mesh = sharding.make_mesh(
      sharding.MeshConfig(1, 2, 1, 1, 1), jax.devices()[:2]
    )
    self.network = make_network(preset)
    self.optimizer = optim.make_optimizer(
      OPTIM, self.network.trained(self.network.letters)
    )
    self.step = step.make_train_step(
      self.network, self.optimizer, FlowConfig(1.0), STEP, self.mesh
    )

  def init(self):
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    params = jax.tree.map(
      lambda x: 0.3 * jax.random.normal(next(keys), x.shape),
      self.network.shapes,
    )
    params = jax.device_put(params, self.network.shardings(self.mesh))
    return state.init_state(self.network, self.optimizer, self.mesh, 0, params)

  def like(self):
    return abstract_state(self.network, self.optimizer, self.mesh)

  def run(self, now, batches, steps):
    for _ in range(steps):
      now, _ = self.step(now, sharding.place(next(batches), self.mesh))
    return now


def test_adapters_and_speech_train_alone_and_resume_bit_by_bit(tmp_path):
  trainer, batches = Trainer("speech+lora"), Clips()
  before = paths(jax.device_get(trainer.init().params))
  now = trainer.run(trainer.init(), batches, 2)
  checkpointer = Checkpointer(tmp_path, keep=1)
  checkpointer.save(now, batches)
  checkpointer.close()
  want = trainer.run(now, batches, 1)

  batches = Clips()
  checkpointer = Checkpointer(tmp_path, keep=1)
  half = checkpointer.restore(trainer.like(), batches)
  where = trainer.like()
  average = checkpointer.restore_average(where.params, where.ema)
  checkpointer.close()
  numerics.assert_same(average, joined(half.params, half.ema))
  numerics.assert_same(trainer.run(half, batches, 1), want)

  after = paths(jax.device_get(want.params))
  trained = {*paths(want.ema)}
  changed = {path for path in after if np.any(after[path] != before[path])}
  # What is zero has no gradient yet, and no batch moves a key's direction.
  assert changed <= trained
  assert {"speech.second.kernel", "blocks.self_attention.lora.query.up"} <= (
    changed
  )


def test_frozen_parameters_have_no_average_no_moments_and_no_gradients():
  network = make_network("speech")
  optimizer = optim.make_optimizer(OPTIM, network.trained(network.letters))
  mesh = sharding.make_mesh(
    sharding.MeshConfig(1, 1, 1, 1, 1), jax.devices()[:1]
  )
  held = abstract_state(network, optimizer, mesh)
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  trained = count(network.trained(network.shapes))
  assert count(held.ema) == trained < count(held.params)
  assert count(held.opt_state) - 2 * trained <= 3  # Counts of steps.


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_trains_the_parts_that_it_names(preset):
  network = make_network(preset)
  trained = {*paths(network.trained(network.shapes))}
  everything = {*paths(network.shapes)}
  parts = {
    "speech": ("speech.", "blocks.speech"),
    "speech+self_attention": ("speech.", "blocks.s"),
    "speech+lora": ("speech.", "blocks.speech", "blocks.self_attention.lora."),
    "lora": ("blocks.self_attention.lora.",),
    "full": ("",),
  }[preset]
  assert trained == {path for path in everything if path.startswith(parts)}


@pytest.mark.parametrize(
  ("preset", "has_adapters"),
  [("full", True), ("speech+lora", False), ("lora", False)],
)
def test_adapters_that_would_not_be_trained_are_refused(preset, has_adapters):
  with pytest.raises(ValueError, match=r"preset = .*lora.rank"):
    TrainableConfig(preset).selection(has_adapters=has_adapters)
