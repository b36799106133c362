"""The exported PyTorch of Wan's backbone against ours, and Wan's own."""

import ast
import inspect

import diffusers
import jax
import pytest
import torch

from mocha_jax.diffusion import guidance
from mocha_jax.diffusion.sample import SampleConfig, euler, times
from mocha_jax.export.pytorch import (
  scheduler_flow,
  transformer_movie_gen,
  transformer_wan,
)
from tests import numerics
from tests.parity import compare
from tests.parity.backbones import (
  MOVIE_GEN,
  TEXT_TOKENS,
  conditions,
  draw,
  encode,
  make_ours,
  make_theirs,
)
from tests.small_wan import MODEL

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


VARIANTS = {
  "window": {},
  "global_two_encoders": dict(
    speech=MODEL["speech"] | dict(attention="global", position="sinusoidal"),
    frozen_text=dict(ul2=12, byt5=8),
  ),
  "global_trained_text": dict(
    speech=MODEL["speech"] | dict(attention="global", position="rope"),
    frozen_text={},
    small_text=dict(vocabulary=40, length=TEXT_TOKENS, layers=1),
  ),
}


@pytest.fixture(scope="module")
def theirs():
  return make_theirs(MODEL, *make_ours(MODEL))


@pytest.mark.parametrize("variant", VARIANTS)
def test_ten_steps_make_the_same_clip(variant):
  model = MODEL | VARIANTS[variant]
  network, params = make_ours(model)
  theirs = make_theirs(model, network, params)
  null, heard, both = conditions(model)
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
  (_, _, both) = conditions(MODEL)
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


ALIKE = (
  *("Folded", "Heard", "RMSNorm", "SpeechProjector", "SpeechWindowAttention"),
  *("GlobalSpeechAttention", "frequencies", "rotated"),
  *("make_speech_attention", "KeepsIslands", "Adaptable", "adapter_settings"),
  *("Attention", "SwiGLU", "TextBlock", "TrainedText"),
)


@pytest.mark.parametrize("name", ALIKE)
def test_both_files_hear_and_read_alike(name):
  """Each stands alone, so what they share is written in both."""
  one, other = (
    ast.dump(ast.parse(inspect.getsource(getattr(module, name))))
    for module in (transformer_movie_gen, transformer_wan)
  )
  assert one == other


@pytest.mark.parametrize("model", [MODEL, MOVIE_GEN], ids=["wan", "movie_gen"])
def test_gradient_checkpointing_runs_layers_again(model):
  theirs = make_theirs(model, *make_ours(model))
  runs = []
  theirs.blocks[1].register_forward_pre_hook(lambda *_: runs.append(1))
  (_, _, both) = conditions(model)
  x, t = torch.from_numpy(draw(5, 1, 4, 5, 4, 6)), torch.tensor([0.3])
  gradients, counts = [], []
  for switch in ("disable", "enable"):
    getattr(theirs, f"{switch}_gradient_checkpointing")()
    theirs.zero_grad()
    runs.clear()
    theirs(x, t, encode(theirs, both)).sample.square().mean().backward()
    gradients.append({k: p.grad for k, p in theirs.named_parameters()})
    counts.append(len(runs))
  assert counts == [1, 2]
  for name, gradient in gradients[0].items():
    torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_says_of_itself_what_is_true(theirs, monkeypatch):
  assert theirs.config.num_layers == len(theirs.blocks) == MODEL["layers"]
  config = diffusers.ContextParallelConfig(ulysses_degree=2)
  monkeypatch.setattr(  # Which asks for processes that this test has not.
    type(theirs),
    "_resolve_parallel_config",
    lambda _, config: diffusers.ParallelConfig(context_parallel_config=config),
  )
  with pytest.raises(ValueError, match="`cp_plan` must be provided"):
    theirs.enable_parallelism(config=config)
