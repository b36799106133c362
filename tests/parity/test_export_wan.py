"""The exported PyTorch of Wan's backbone against ours, and Wan's own."""

import ast
import inspect

import diffusers
import jax
import numpy as np
import pytest
import torch

from mocha_jax.batch import Condition
from mocha_jax.diffusion import guidance
from mocha_jax.diffusion.sample import SampleConfig, euler, times
from mocha_jax.export import diffusers_folder
from mocha_jax.export.pytorch import (
  scheduler_flow,
  transformer_movie_gen,
  transformer_wan,
)
from mocha_jax.models import make_config, make_model
from mocha_jax.network import Network
from mocha_jax.weights import files, tables
from tests import numerics
from tests.parity import compare
from tests.small_wan import MODEL

SPEECH_TOKENS, TEXT_TOKENS = 17, 7
SAMPLE = SampleConfig(
  steps=10,
  schedule="shifted_linear",
  shift=3.0,
  speech_guidance=3.0,
  text_guidance=4.0,
  batch_size=1,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
  torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ours():
  """A network, and parameters none of which is where it starts."""
  config = make_config(MODEL)
  network = Network(lambda rngs: make_model(config, rngs=rngs))
  start = jax.device_get(jax.jit(network.init)(jax.random.key(0)))
  rng = np.random.default_rng(7)
  drawn = lambda x: (
    x + 0.3 * rng.standard_normal(x.shape) / x.shape[-1] ** 0.5
  ).astype(np.float32)
  return network, jax.tree.map(drawn, start)


@pytest.fixture(scope="module")
def theirs(ours):
  network, params = ours
  backbone = diffusers_folder.make_backbone(MODEL, network.shapes)
  flat = tables.paths(params)
  state = {
    name: torch.from_numpy(tensor.read().copy())
    for path, leaf in tables.bind(
      backbone.table, network.shapes, network.letters
    ).items()
    for name, tensor in leaf.their_tensors(files.in_memory(flat[path]))
  }
  made = transformer_wan.MochaWanTransformer3DModel(**backbone.config)
  made.load_state_dict(state)
  return made.eval()


def draw(seed, *shape):
  rng = np.random.default_rng(seed)
  return rng.standard_normal(shape).astype(np.float32)


def conditions():
  """Nothing, speech alone, and text with speech: of one clip."""
  speech = draw(1, 1, SPEECH_TOKENS, 6)
  mask = lambda length: np.arange(TEXT_TOKENS)[None] < length
  make = lambda speech, seed, length: Condition(
    speech, {"umt5": draw(seed, 1, TEXT_TOKENS, 20)}, {"umt5": mask(length)}
  )
  silence = np.zeros_like(speech)
  return make(silence, 2, 1), make(speech, 2, 1), make(speech, 3, 5)


def encode(theirs, *parts):
  joined = jax.tree.map(lambda *x: torch.from_numpy(np.concatenate(x)), *parts)
  return theirs.encode(joined.speech, joined.text, joined.text_mask)


def test_ten_steps_make_the_same_clip(ours, theirs):
  network, params = ours
  null, heard, both = conditions()
  noise = draw(4, 1, 5, 4, 6, 4)
  scale = guidance.Guidance(
    speech=SAMPLE.speech_guidance, text=SAMPLE.text_guidance
  )
  want = jax.jit(
    lambda params, noise: euler(
      guidance.nested(network.bind(params), null, scale),
      noise,
      both,
      times(SAMPLE),
    )
  )(params, noise)
  scheduler = scheduler_flow.FlowEulerScheduler(
    SAMPLE.steps, SAMPLE.schedule, SAMPLE.shift
  )
  with torch.no_grad():
    encoded = encode(theirs, null, heard, both)
    x = torch.from_numpy(noise).movedim(-1, 1)
    for t in scheduler.timesteps:
      v = theirs(torch.cat([x] * 3), t.expand(3), encoded).sample.chunk(3)
      guided = v[0] + scale.speech * (v[1] - v[0]) + scale.text * (v[2] - v[1])
      x = scheduler.step(guided, t, x).prev_sample
  numerics.assert_sampled_alike(x.movedim(1, -1).numpy(), want)


def test_without_speech_it_is_wan(theirs):
  """With speech attention put out, it predicts what diffusers' own does."""
  wan = diffusers.WanTransformer3DModel(
    num_attention_heads=MODEL["heads"],
    attention_head_dim=MODEL["head"],
    in_channels=MODEL["channels"],
    out_channels=MODEL["channels"],
    text_dim=20,
    ffn_dim=MODEL["ffn"],
    num_layers=MODEL["layers"],
  )
  extra = wan.load_state_dict(theirs.state_dict(), strict=False)
  assert not extra.missing_keys
  assert all("speech" in name for name in extra.unexpected_keys)
  (_, _, both) = conditions()
  both.text["umt5"][:, 5:] = 0.0
  x, t = torch.from_numpy(draw(5, 1, 4, 5, 4, 6)), torch.tensor([0.3])
  with torch.no_grad():
    encoded = encode(theirs, both)
    silent = [
      folded._replace(value=torch.zeros_like(folded.value))
      for folded in encoded.speech
    ]
    got = theirs(x, t, encoded._replace(speech=silent)).sample
    text = torch.from_numpy(both.text["umt5"])
    want = -wan(x, 1000 * (1 - t), text).sample
  compare.assert_parity(got, want)


def test_bfloat16_keeps_its_islands(theirs):
  loaded = transformer_wan.MochaWanTransformer3DModel
  kept = loaded.islands
  with torch.no_grad():
    _, _, both = conditions()
    x, t = torch.from_numpy(draw(5, 1, 4, 5, 4, 6)), torch.tensor([0.3])
    want = theirs(x, t, encode(theirs, both)).sample
    made = loaded.from_config(theirs.config)
    made.load_state_dict(theirs.state_dict())
    for name, parameter in made.named_parameters():
      if not any(part in name.split(".") for part in kept):
        parameter.data = parameter.data.bfloat16()
    got = made(x, t, encode(made, both)).sample
  assert got.dtype == torch.float32
  assert (got - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize(
  "name", ["Folded", "RMSNorm", "SpeechProjector", "SpeechWindowAttention"]
)
def test_both_files_hear_alike(name):
  """Each stands alone, so what they share is written in both."""
  one, other = (
    ast.dump(ast.parse(inspect.getsource(getattr(module, name))))
    for module in (transformer_movie_gen, transformer_wan)
  )
  assert one == other
