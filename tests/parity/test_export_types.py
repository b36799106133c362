"""What exported components keep of float32 if bfloat16 is asked for."""

import numpy as np
import pytest
import torch
import transformers

from mocha_jax.export import diffusers_folder
from mocha_jax.export.pytorch import (
  codec_linear,
  speech_log_mel,
  speech_wav2vec2,
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
WAV2VEC2 = transformers.Wav2Vec2Config(
  hidden_size=12,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=16,
  conv_dim=(8,) * 7,
  num_conv_pos_embeddings=4,
  num_conv_pos_embedding_groups=2,
  mask_time_prob=0.0,
  interpolate="before",
)
HELPED = pytest.mark.parametrize("helped", [False, True])


def reloaded(made, folder, monkeypatch, helped):
  """Save and load in bfloat16; helped: by accelerate."""
  made.save_pretrained(folder)
  if not helped:
    monkeypatch.setattr(type(made), "_keep_in_fp32_modules", None)
  return type(made).from_pretrained(
    folder, torch_dtype=torch.bfloat16, low_cpu_mem_usage=helped
  )


def make(transformer, model):
  """Return a transformer none of whose parameters is where it starts."""
  config = make_config(model)
  shapes = Network(lambda rngs: make_model(config, rngs=rngs)).shapes
  torch.manual_seed(0)
  made = transformer(**diffusers_folder.make_backbone(model, shapes).config)
  with torch.no_grad():
    for parameter in made.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return made


@HELPED
@pytest.mark.parametrize(("transformer", "model"), TRANSFORMERS)
def test_islands_stay(transformer, model, helped, tmp_path, monkeypatch):
  made = make(transformer, model)
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


SMALL_PARTS = [
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
]


@HELPED
@pytest.mark.parametrize("part", SMALL_PARTS, ids=["codec", "log_mel"])
def test_small_parts_stay(part, helped, tmp_path, monkeypatch):
  loaded = reloaded(part, tmp_path, monkeypatch, helped)
  for name, x in loaded.state_dict().items():
    assert x.dtype == torch.float32
    assert torch.equal(x, part.state_dict()[name])


@pytest.mark.parametrize(("transformer", "model"), TRANSFORMERS)
def test_what_is_cast_afterwards_keeps_the_same_islands(
  transformer, model, tmp_path
):
  made = make(transformer, model)
  made.save_pretrained(tmp_path)
  loaded = transformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
  cast = made.to("cpu", torch.bfloat16)
  for tensors in ("named_parameters", "named_buffers"):
    want, got = (dict(getattr(x, tensors)()) for x in (loaded, cast))
    assert want.keys() == got.keys()
    for name, x in want.items():
      assert got[name].dtype == x.dtype, name
      assert torch.equal(got[name], x), name
  half = {x.dtype for x in made.half().parameters()}
  assert half == {torch.float32, torch.float16}
  assert {x.device.type for x in made.to("meta").parameters()} == {"meta"}


@pytest.mark.parametrize("part", SMALL_PARTS, ids=["codec", "log_mel"])
def test_small_parts_stay_when_cast_afterwards(part):
  held = {name: x.clone() for name, x in part.state_dict().items()}
  for cast in (part.to(torch.bfloat16), part.half(), part.to("cpu")):
    for name, x in cast.state_dict().items():
      assert x.dtype == torch.float32
      assert torch.equal(x, held[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wav2vec2_stays(dtype, tmp_path):
  torch.manual_seed(0)
  made = speech_wav2vec2.Wav2Vec2SpeechEncoder(WAV2VEC2).eval()
  made.save_pretrained(tmp_path)
  wave = torch.randn(4000)
  with torch.no_grad():
    want = made(wave, 24, 6)
    loaded = type(made).from_pretrained(tmp_path, torch_dtype=dtype)
    for cast in (loaded, made.to(dtype), made.to("cpu", dtype)):
      assert {x.dtype for x in cast.parameters()} == {torch.float32}
      assert torch.equal(cast(wave, 24, 6), want)
