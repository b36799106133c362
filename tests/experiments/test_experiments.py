from typing import Any

import jax
import jax.numpy as jnp
import pytest

from data_pipelines.mixture import DataConfig
from data_pipelines.toy.build import ToyConfig
from mocha_jax import codecs, run
from mocha_jax import config as experiments
from mocha_jax.batch import Condition
from mocha_jax.diffusion.flow import FlowConfig
from mocha_jax.diffusion.sample import SampleConfig
from mocha_jax.encoders import make_speech_encoder, make_text_encoders
from mocha_jax.evaluation.score import ScoreConfig
from mocha_jax.media import ClipFormat
from mocha_jax.sections import section
from mocha_jax.sharding import MeshConfig
from mocha_jax.training.loop import LoopConfig
from mocha_jax.training.optim import OptimConfig
from mocha_jax.training.step import StepConfig
from mocha_jax.training.trainable import TrainableConfig

SECTIONS = dict(
  clip=ClipFormat,
  toy=ToyConfig,
  data=DataConfig,
  trainable=TrainableConfig,
  flow=FlowConfig,
  optim=OptimConfig,
  step=StepConfig,
  train=LoopConfig,
  mesh=MeshConfig,
  sample=SampleConfig,
  score=ScoreConfig,
)
OTHERS = {"seed", "codec", "model", "speech_encoder", "text_encoder"}


@pytest.mark.parametrize("name", experiments.names())
def test_every_section_is_valid(name):
  given = experiments.load(name).to_dict()
  for key, config_class in SECTIONS.items():
    section(config_class, given[key], key)
  assert {*given} == {*SECTIONS, *OTHERS}
  optim, train = given["optim"], given["train"]
  assert optim["warmup_steps"] < train["total_steps"]
  if optim["schedule"] == "cosine":
    assert optim["decay_steps"] == train["total_steps"]


def condition(given, frames: int) -> Condition:
  """The shapes of what a batch of two is conditioned on."""
  model = given["model"]
  shape: Any = jax.ShapeDtypeStruct
  speech, text = model["speech"]["features"], {}
  assert make_speech_encoder(given["speech_encoder"]).width == speech
  encoders = make_text_encoders(given["text_encoder"])
  widths = {name: encoder.width for name, encoder in encoders.items()}
  assert {k: n for k, n in widths.items() if n} == model["frozen_text"]
  for name, encoder in encoders.items():
    ids, features = (2, encoder.length), (2, encoder.length, encoder.width)
    text[name] = (
      shape(features, jnp.float32) if encoder.width else shape(ids, jnp.int32)
    )
  mask = {name: shape(x.shape[:2], jnp.bool_) for name, x in text.items()}
  return Condition(shape((2, frames, speech), jnp.float32), text, mask)


@pytest.mark.parametrize("name", experiments.names())
def test_network_takes_the_clips_of_its_experiment(name):
  config = experiments.load(name)
  given = config.to_dict()
  clip = section(ClipFormat, given["clip"], "clip")
  codec = codecs.make_config(given["codec"])
  grid = codecs.latent_shape(codec, clip.frames, clip.height, clip.width)
  network = run.make_network(config)
  latents = jax.ShapeDtypeStruct((2, *grid), jnp.float32)
  velocity = jax.eval_shape(
    lambda params, *inputs: network.bind(params)(*inputs),
    network.shapes,
    latents,
    jax.ShapeDtypeStruct((2,), jnp.float32),
    condition(given, clip.frames),
  )
  assert velocity.shape == latents.shape
