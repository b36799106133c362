import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mocha_jax import sharding
from mocha_jax.batch import Batch, Condition
from mocha_jax.diffusion.flow import FlowConfig
from mocha_jax.models.movie_gen import MovieGen
from mocha_jax.training import loop, optim, speed, state, step
from mocha_jax.training.checkpoint import Checkpointer, abstract_state
from mocha_jax.training.profile import Profile
from tests import numerics
from tests.small_model import CONFIG as MODEL

OPTIM = optim.OptimConfig(
  learning_rate=1e-2,
  warmup_steps=2,
  schedule="constant",
  decay_steps=0,
  b1=0.9,
  b2=0.99,
  eps=1e-8,
  weight_decay=0.01,
  clip_norm=1.0,
  moments="float32",
)
STEP = step.StepConfig(accumulate=1, ema=0.9)


class Clips:
  """An endless iterator of random batches, with a position."""

  def __init__(self):
    self.position = 0

  def __next__(self) -> Batch:
    rng = np.random.default_rng(self.position)
    self.position += 1
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return Batch(
      normal(8, 2, 4, 4, 5),
      Condition(
        normal(8, 8, 6),
        {"small_text": jnp.asarray(rng.integers(1, 64, (8, 8)), jnp.int32)},
        {"small_text": jnp.asarray(rng.random((8, 8)) < 0.9)},
      ),
    )

  def get_state(self):
    return {"position": self.position}

  def set_state(self, saved):
    self.position = saved["position"]


@dataclasses.dataclass
class Losses:
  """A log that keeps what it is told."""

  seen: list = dataclasses.field(default_factory=list)
  clock: speed.Clock = dataclasses.field(default_factory=speed.Clock)

  def write_previous(self, step, metrics):
    self.seen.append((step, metrics["loss"]))


class Trainer:
  """All the parts of training, on a mesh."""

  def __init__(self, shape=(1, 1, 1, 1, 1), config=STEP, model=MODEL):
    devices = jax.devices()[: int(np.prod(shape))]
    self.mesh = sharding.make_mesh(sharding.MeshConfig(*shape), devices)
    self.network = state.Network(lambda rngs: MovieGen(model, rngs=rngs))
    self.optimizer = optim.make_optimizer(OPTIM, self.network.letters)
    self.step = step.make_train_step(
      self.network, self.optimizer, FlowConfig(1.0), config, self.mesh
    )

  def init(self):
    return state.init_state(self.network, self.optimizer, self.mesh, 0)

  def like(self):
    return abstract_state(self.network, self.optimizer, self.mesh)

  def run(self, now, batches, steps, folder, *, save_every=100, profile=None):
    """Train, save the end, and return the state and the losses."""
    log = Losses()
    checkpointer = Checkpointer(folder, keep=3)
    end = loop.train(
      now,
      batches,
      lambda s, b: self.step(s, sharding.place(b, self.mesh)),
      loop.LoopConfig(
        total_steps=steps, log_every=1, save_every=save_every, keep=3
      ),
      checkpointer=checkpointer,
      log=log,
      profile=profile,
    )
    checkpointer.close()
    return end, [float(loss) for _, loss in log.seen]

  def restore(self, batches, folder):
    checkpointer = Checkpointer(folder, keep=3)
    restored = checkpointer.restore(self.like(), batches)
    checkpointer.close()
    return restored


def test_two_steps_restored_and_two_more_are_bitwise_four(tmp_path):
  trainer = Trainer((2, 2, 2, 1, 1))
  want, losses = trainer.run(trainer.init(), Clips(), 4, tmp_path / "whole")

  _, first = trainer.run(trainer.init(), Clips(), 2, tmp_path / "parts")
  again = Trainer((2, 2, 2, 1, 1))
  batches = Clips()
  half = again.restore(batches, tmp_path / "parts")
  got, second = again.run(half, batches, 4, tmp_path / "parts")

  assert first + second == losses
  numerics.assert_same(got, want)


def test_a_save_in_the_middle_changes_nothing(tmp_path):
  trainer = Trainer()
  want, _ = trainer.run(trainer.init(), Clips(), 4, tmp_path / "a")
  got, _ = trainer.run(trainer.init(), Clips(), 4, tmp_path / "b", save_every=1)
  numerics.assert_same(got, want)


def test_eight_devices_train_like_one(tmp_path):
  one, eight = Trainer((1, 1, 1, 1, 1)), Trainer((2, 2, 2, 1, 1))
  _, want = one.run(one.init(), Clips(), 4, tmp_path / "one")
  end, got = eight.run(eight.init(), Clips(), 4, tmp_path / "eight")
  np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)
  for part in (end.params, end.ema, end.opt_state):
    query = find(part, "self_attention", "query")
    # [layers D N H]: D over fsdp, N over tensor.
    assert query.sharding.shard_shape(query.shape) == (2, 16, 2, 8)


def find(tree, *names):
  """Return the first array under a path that ends in names."""
  for path, leaf in jax.tree.leaves_with_path(tree):
    keys = [getattr(k, "key", None) for k in path]
    if tuple(keys[-len(names) :]) == names:
      return leaf
  raise KeyError(names)


def test_state_stays_where_it_is_put():
  trainer = Trainer((2, 2, 2, 1, 1))
  now = trainer.init()
  wanted = jax.tree.map(lambda x: x.sharding, trainer.like())
  assert jax.tree.map(lambda x: x.sharding, now) == wanted
  now, _ = trainer.step(now, next(Clips()))
  assert jax.tree.map(lambda x: x.sharding, now) == wanted


def test_step_is_compiled_once(tmp_path):
  trainer = Trainer((2, 2, 2, 1, 1))
  compiled = []

  def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs
    compiled.append((event, kwargs))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    now, batches = trainer.init(), Clips()
    for _ in range(3):
      now, _ = trainer.step(now, sharding.place(next(batches), trainer.mesh))
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  steps = [
    kwargs
    for name, kwargs in compiled
    if name.endswith("backend_compile_duration")
    and "step" in kwargs.get("fun_name", "")
  ]
  assert len(steps) == 1


def test_accumulation_is_the_mean_over_the_parts():
  parts = Trainer(config=dataclasses.replace(STEP, accumulate=4))
  now, metrics = parts.step(parts.init(), next(Clips()))
  assert np.isfinite(metrics["loss"]) and int(now.step) == 1
  # Its gradients are means, of the size of those of the whole batch.
  _, whole = Trainer().step(Trainer().init(), next(Clips()))
  np.testing.assert_allclose(metrics["grad_norm"], whole["grad_norm"], rtol=0.5)


def test_words_are_looked_up_by_replicas_of_several_devices():
  config = dataclasses.replace(STEP, accumulate=2)
  trainer = Trainer((2, 2, 2, 1, 1), config=config)
  now, metrics = trainer.step(trainer.init(), next(Clips()))
  assert np.isfinite(metrics["loss"]) and int(now.step) == 1


def test_average_follows_the_parameters():
  trainer = Trainer()
  now, batches = trainer.init(), Clips()
  before = jax.device_get(now.params)
  now, _ = trainer.step(now, next(batches))
  # decay = min(0.9, (1 + 0) / (10 + 0)): 0.1 old + 0.9 new.
  want = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, before, now.params)
  numerics.assert_close(now.ema, want, jnp.float32)


def test_loss_falls_on_one_batch():
  trainer = Trainer()
  now, batch = trainer.init(), next(Clips())
  losses = []
  for _ in range(60):
    now, metrics = trainer.step(now, batch)
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_bfloat16_keeps_parameters_and_moments_in_float32():
  model = dataclasses.replace(MODEL, dtype="bfloat16", remat="dots")
  trainer = Trainer(model=model)
  now, metrics = trainer.step(trainer.init(), next(Clips()))
  assert np.isfinite(metrics["loss"])
  for leaf in jax.tree.leaves((now.params, now.ema, now.opt_state)):
    assert leaf.dtype in (jnp.float32, jnp.int32)


def test_checkpoint_holds_the_average_by_itself(tmp_path):
  trainer = Trainer()
  end, _ = trainer.run(trainer.init(), Clips(), 1, tmp_path / "run")
  checkpointer = Checkpointer(tmp_path / "run", keep=1)
  ema = checkpointer.restore_part("ema", trainer.like().ema)
  checkpointer.close()
  numerics.assert_same(ema, end.ema)


def test_profile_traces_the_steps_asked_for(tmp_path):
  trainer = Trainer()
  trace = Profile(tmp_path / "profile", 1, 3)
  trainer.run(trainer.init(), Clips(), 4, tmp_path / "run", profile=trace)
  (file,) = (tmp_path / "profile").rglob("*.xplane.pb")
  steps = {
    dict(event.stats)["step_num"]
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes
    for line in plane.lines
    for event in line.events
    if event.name == "train"
  }
  assert steps == {1, 2}
