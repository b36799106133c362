import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mocha_jax import config as experiments
from mocha_jax import run
from mocha_jax.batch import Condition
from mocha_jax.models.movie_gen import ModelConfig, MovieGen
from tests import numerics
from tests.small_model import CONFIG


def build(config: ModelConfig) -> MovieGen:
  """A model with no parameter at zero, so that every path is alive."""
  model = MovieGen(config, rngs=nnx.Rngs(0))
  state = nnx.state(model, nnx.Param)
  leaves, tree = jax.tree.flatten(state)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [
    x + 0.1 * jax.random.normal(k, x.shape)
    for x, k in zip(leaves, keys, strict=True)
  ]
  nnx.update(model, jax.tree.unflatten(tree, leaves))
  return model


def inputs(config: ModelConfig, frames: int = 4, batch: int = 2):
  keys = jax.random.split(jax.random.key(2), 3)
  x_t = jax.random.normal(keys[0], (batch, frames, 4, 6, config.channels))
  tokens = config.ratio * (frames - config.causal) + config.causal
  features = config.speech.features
  condition = Condition(
    jax.random.normal(keys[1], (batch, tokens, features)),
    {"small_text": jax.random.randint(keys[2], (batch, 8), 1, 64)},
    {"small_text": jnp.arange(8)[None] < jnp.array([[8], [5]])},
  )
  return x_t, jnp.array([0.3, 0.8])[:batch], condition


def count(tree) -> int:
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


# METHOD: parameters in billions.
PAPER = {
  "mocha_30b": dict(
    backbone=28.991, speech=7.248, shared=0.226, projector=0.055, text=0.042
  ),
  "mocha_4b": dict(
    backbone=3.624, speech=0.906, shared=0.057, projector=0.053, text=0.021
  ),
}


@pytest.mark.parametrize("name", PAPER)
def test_parameters_are_as_many_as_the_paper_implies(name):
  shapes = run.make_network(experiments.load(name)).shapes
  blocks = shapes["blocks"]
  matrices = ("query", "key", "value", "out")
  attention = [blocks["self_attention"], blocks["text_attention"]]
  got = dict(
    backbone=count(blocks["mlp"])
    + sum(count(part[m]) for part in attention for m in matrices),
    speech=sum(count(blocks["speech_attention"][m]) for m in matrices),
    shared=count(shapes["modulation"]["kernel"]),
    projector=count(shapes["speech"]),
    text=sum(
      count(part["linear"]) for part in shapes["text"]["encoders"].values()
    ),
  )
  got = {part: round(n / 1e9, 3) for part, n in got.items()}
  assert got == PAPER[name]


@pytest.mark.parametrize("causal", [False, True])
def test_velocity_has_the_shape_of_the_latents(causal):
  config = dataclasses.replace(CONFIG, causal=causal)
  x_t, t, condition = inputs(config)
  out = build(config)(x_t, t, condition)
  assert out.shape == x_t.shape and out.dtype == jnp.float32


def test_speech_changes_nothing_at_step_0():
  model = MovieGen(CONFIG, rngs=nnx.Rngs(0))
  # Open the last layer, which starts at zero too.
  model.out.kernel[...] = jnp.ones_like(model.out.kernel[...])
  x_t, t, condition = inputs(CONFIG)
  silent = dataclasses.replace(condition, speech=0 * condition.speech)
  out = model(x_t, t, condition)
  assert float(jnp.abs(out).max()) > 0
  numerics.assert_same(out, model(x_t, t, silent))


def test_padding_of_the_text_changes_nothing():
  model = build(CONFIG)
  x_t, t, condition = inputs(CONFIG)
  ids = condition.text["small_text"]
  other = dataclasses.replace(
    condition, text={"small_text": ids.at[1, 5:].set(9)}
  )
  numerics.assert_close(
    model(x_t, t, other), model(x_t, t, condition), jnp.float32, 64
  )


def test_a_clip_does_not_depend_on_its_batch():
  model = build(CONFIG)
  x_t, t, condition = inputs(CONFIG)
  alone = jax.tree.map(lambda x: x[:1], (x_t, t, condition))
  numerics.assert_close(
    model(*alone), model(x_t, t, condition)[:1], jnp.float32, 64
  )


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_rematerialisation_changes_no_gradient(remat):
  given = inputs(CONFIG)

  def gradient(config):
    model = build(config)
    return nnx.grad(lambda m: jnp.sum(m(*given) ** 2))(model)

  want = gradient(CONFIG)
  got = gradient(dataclasses.replace(CONFIG, remat=remat))
  numerics.assert_close(
    nnx.to_pure_dict(got), nnx.to_pure_dict(want), jnp.float32, 2048
  )


@pytest.mark.parametrize(
  "speech",
  [
    dict(order="none"),
    dict(order="rope"),
    dict(edge="shift"),
    dict(attention="global", position="none"),
    dict(attention="global", position="rope"),
    dict(attention="global", position="sinusoidal"),
    dict(attention="global", position="learned"),
  ],
  ids=lambda speech: "-".join(speech.values()),
)
def test_every_speech_attention_listens(speech):
  config = dataclasses.replace(
    CONFIG, speech=dataclasses.replace(CONFIG.speech, **speech)
  )
  model = build(config)
  x_t, t, condition = inputs(config)
  reversed_speech = dataclasses.replace(
    condition, speech=condition.speech[:, ::-1]
  )
  change = model(x_t, t, condition) - model(x_t, t, reversed_speech)
  assert float(jnp.abs(change).max()) > 1e-3


def test_bfloat16_stays_near_float32():
  model = build(CONFIG)
  low = build(dataclasses.replace(CONFIG, dtype="bfloat16"))
  given = inputs(CONFIG)
  want, got = model(*given), low(*given)
  error = jnp.linalg.norm(got - want) / jnp.linalg.norm(want)
  assert float(error) < 0.05


def test_longer_and_larger_video_than_the_model_allows_is_refused():
  with pytest.raises(ValueError, match=r"5 latent frames.* max_frames=4"):
    build(CONFIG)(*inputs(CONFIG, frames=5))
  x_t, t, condition = inputs(CONFIG)
  wider = jnp.concatenate([x_t, x_t], axis=3)
  with pytest.raises(ValueError, match=r"4 x 2 x 6 .* hold 4 x 2 x 3"):
    build(CONFIG)(wider, t, condition)


def test_speech_of_another_length_is_refused():
  x_t, t, condition = inputs(CONFIG)
  with pytest.raises(ValueError, match=r"4 latent frames.*goes with 3"):
    build(CONFIG)(
      x_t, t, dataclasses.replace(condition, speech=condition.speech[:, 4:])
    )


def test_token_with_as_many_values_as_the_width_is_refused():
  with pytest.raises(ValueError, match="fewer than width=32"):
    dataclasses.replace(CONFIG, channels=8)


def test_text_of_another_encoder_is_refused():
  x_t, t, condition = inputs(CONFIG)
  other = dataclasses.replace(
    condition,
    text={"ul2": condition.text["small_text"]},
    text_mask={"ul2": condition.text_mask["small_text"]},
  )
  with pytest.raises(ValueError, match=r"ul2.*small_text"):
    build(CONFIG)(x_t, t, other)


def test_modules_are_built_alike_from_one_seed():
  first, second = (
    nnx.to_pure_dict(nnx.state(MovieGen(CONFIG, rngs=nnx.Rngs(3))))
    for _ in range(2)
  )
  numerics.assert_same(first, second)
  # And stacked layers differ from one another.
  query = np.asarray(first["blocks"]["self_attention"]["query"])
  assert not np.array_equal(query[0], query[1])
