"""What exported components keep of float32 if bfloat16 is asked for."""

import numpy as np
import pytest
import torch

from mocha_jax.export import diffusers_folder
from mocha_jax.export.pytorch import (
  codec_linear,
  speech_log_mel,
  transformer_movie_gen,
  transformer_wan,
)
from mocha_jax.models import make_config, make_model
from mocha_jax.network import Network
from tests.parity.backbones import MOVIE_GEN, WAN

_SMALL_TEXT = dict(
  frozen_text={}, small_text=dict(vocabulary=40, length=7, layers=1)
)
TRANSFORMERS = [
  (transformer_wan.MochaWanTransformer3DModel, WAN),
  (transformer_wan.MochaWanTransformer3DModel, WAN | _SMALL_TEXT),
  (
    transformer_movie_gen.MochaMovieGenTransformer3DModel,
    MOVIE_GEN | _SMALL_TEXT,
  ),
]
HELPED = pytest.mark.parametrize("helped", [False, True])


def reloaded(made, folder, monkeypatch, helped):
  """Save and load in bfloat16; helped: by accelerate."""
  made.save_pretrained(folder)
  if not helped:
    monkeypatch.setattr(type(made), "_keep_in_fp32_modules", None)
  return type(made).from_pretrained(
    folder, torch_dtype=torch.bfloat16, low_cpu_mem_usage=helped
  )


@HELPED
@pytest.mark.parametrize(("transformer", "model"), TRANSFORMERS)
def test_islands_stay(transformer, model, helped, tmp_path, monkeypatch):
  config = make_config(model)
  shapes = Network(lambda rngs: make_model(config, rngs=rngs)).shapes
  torch.manual_seed(0)
  made = transformer(**diffusers_folder.make_backbone(model, shapes).config)
  with torch.no_grad():
    for parameter in made.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  loaded = reloaded(made, tmp_path, monkeypatch, helped)
  held = made.state_dict()
  kinds = set()
  for name, parameter in loaded.named_parameters():
    island = not set(loaded.islands).isdisjoint(name.split("."))
    kinds.add(island)
    assert parameter.dtype == (torch.float32 if island else torch.bfloat16)
    assert torch.equal(parameter, held[name].to(parameter.dtype))
  assert kinds == {False, True}

  rng = np.random.default_rng(0)
  draw = lambda *shape: torch.from_numpy(
    rng.standard_normal(shape).astype(np.float32)
  )
  text = {name: draw(1, 7, n) for name, n in model["frozen_text"].items()}
  if model["small_text"] is not None:
    text["small_text"] = torch.arange(1, 8)[None]
  mask = dict.fromkeys(text, torch.arange(7)[None] < 5)
  speech, x, t = draw(1, 17, 6), draw(1, 4, 5, 4, 6), torch.tensor([0.3])
  with torch.no_grad():
    want, got = (
      model(x, t, model.encode(speech, text, mask)).sample
      for model in (made, loaded)
    )
  assert got.dtype == torch.float32
  assert (got - want).abs().max() < 0.05 * want.abs().max()


@HELPED
@pytest.mark.parametrize(
  "part",
  [
    codec_linear.LinearCodec(time=4, space=8, channels=8, causal=True),
    speech_log_mel.LogMelSpeechEncoder(
      mels=8,
      hops_per_frame=2,
      sample_rate=16_000,
      window=400,
      fft=512,
      floor=1e-6,
      mean=0.0,
      deviation=1.0,
    ),
  ],
  ids=["codec", "log_mel"],
)
def test_small_parts_stay(part, helped, tmp_path, monkeypatch):
  loaded = reloaded(part, tmp_path, monkeypatch, helped)
  for name, x in loaded.state_dict().items():
    assert x.dtype == torch.float32
    assert torch.equal(x, part.state_dict()[name])
