"""What the exported pipeline does with what it is given, and its parts."""

import importlib.util
import sys

import diffusers
import numpy as np
import pytest
import soundfile
import torch
import transformers

from mocha_jax import prompts, resampling
from mocha_jax.export import diffusers_folder
from mocha_jax.export.pytorch import (
  codec_linear,
  scheduler_flow,
  speech_log_mel,
  speech_wav2vec2,
  tokenizer_file,
  transformer_movie_gen,
  transformer_wan,
)
from mocha_jax.models import make_config, make_model
from mocha_jax.network import Network
from tests.small_wan import MODEL

RATE = 16_000
TRANSFORMERS = {
  "wan": (transformer_wan.MochaWanTransformer3DModel, MODEL),
  "movie_gen": (
    transformer_movie_gen.MochaMovieGenTransformer3DModel,
    MODEL | dict(name="movie_gen", max_rows=4, max_columns=4, noise_skip=True),
  ),
}


@pytest.fixture(params=TRANSFORMERS)
def pipeline(request, monkeypatch):
  """A pipeline of small parts; a token of video is 16 pixels wide."""
  package = "mocha_jax.export.pytorch"
  for beside in (prompts, resampling):  # As in an exported folder.
    name = beside.__name__.removeprefix("mocha_jax")
    monkeypatch.setitem(sys.modules, f"{package}{name}", beside)
  made = importlib.import_module(f"{package}.pipeline_mocha")
  transformer, model = TRANSFORMERS[request.param]
  config = make_config(model)
  shapes = Network(lambda rngs: make_model(config, rngs=rngs)).shapes
  torch.manual_seed(0)
  pipeline = made.MochaPipeline(
    transformer(**diffusers_folder.make_backbone(model, shapes).config),
    scheduler_flow.FlowEulerScheduler(4, "shifted_linear", 3.0),
    codec_linear.LinearCodec(time=4, space=8, channels=4, causal=True),
    speech_log_mel.LogMelSpeechEncoder(
      mels=3,
      hops_per_frame=2,
      sample_rate=RATE,
      window=400,
      fft=512,
      floor=1e-6,
      mean=0.0,
      deviation=1.0,
    ),
    tokenizer_file.FileTokenizer("bytes", 12, True),
    transformers.T5EncoderModel(
      transformers.T5Config(
        d_model=20, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=260
      )
    ).eval(),
    text_names=["umt5"],
    num_frames=5,
    height=32,
    width=48,
    speech_guidance_scale=2.0,
  )
  pipeline.set_progress_bar_config(disable=True)
  return pipeline


@pytest.mark.skipif(
  importlib.util.find_spec("accelerate") is None, reason="no accelerate here"
)
@pytest.mark.parametrize("heard", [True, False])
def test_offloading_brings_each_part_once_before_it_runs(
  pipeline, heard, monkeypatch
):
  import accelerate.hooks

  brought, gone = [], []
  name_of = lambda module: next(
    name for name, x in pipeline.components.items() if x is module
  )
  monkeypatch.setattr(
    accelerate.hooks.CpuOffload,
    "pre_forward",
    lambda self, module, *given, **named: (
      brought.append(name_of(module))
      or (self.prev_module_hook and self.prev_module_hook.offload())
      or (given, named)
    ),
  )
  monkeypatch.setattr(
    accelerate.hooks.UserCpuOffloadHook,
    "offload",
    lambda self: gone.append((name_of(self.model), len(brought))),
  )
  pipeline.enable_model_cpu_offload(device="cpu")
  gone.clear()
  folded = []
  projector = pipeline.transformer.speech
  projector.register_forward_hook(lambda *_: folded.append(len(brought)))
  speech = np.zeros(3000, np.float32) if heard else None
  pipeline("A man.", speech, num_inference_steps=2)
  before = ["speech_encoder"] * heard + ["text_encoder"]
  assert brought == [*before, *["transformer"] * 3, "vae"]
  assert folded == [len(before) + 1]  # After it was brought, by `encode`.
  for name, following in (
    *([("speech_encoder", "text_encoder")] * heard),
    ("text_encoder", "transformer"),
    ("transformer", "vae"),
  ):
    assert (name, brought.index(following) + 1) in gone


@pytest.mark.parametrize("attention", ["window", "global"])
def test_guidance_holds_each_speech_and_null_once(pipeline, attention):
  transformer = pipeline.transformer
  if attention == "global":
    transformer = type(transformer).from_config(
      transformer.config, speech_attention="global", speech_position="rope"
    )
    pipeline.transformer = transformer
  texts, rng = ["A man.", "A woman."], np.random.default_rng(0)
  waves = [pipeline.read_speech(rng.standard_normal(3000)), None]
  read = []
  pipeline.text_encoder.register_forward_pre_hook(
    lambda module, _, given: read.append(len(given["input_ids"])),
    with_kwargs=True,
  )
  with torch.no_grad():
    encoded = pipeline.encode(texts, waves, 5, guided=True)
    assert read == [3]
    assert {len(x) for x in encoded.speech[0]} == {3}

    x, t = torch.randn(2, 4, 2, 4, 6), torch.tensor(0.3)
    got = pipeline.guided_velocity(x, t, encoded, 2.0, 3.0)
    speech = torch.stack([pipeline.encode_speech(y, 5) for y in waves])
    nothing = torch.zeros_like(speech)
    parts = [(nothing, ["", ""]), (speech, ["", ""]), (speech, texts)]
    v = [
      transformer(
        x,
        t.expand(2),
        transformer.encode(heard, *pipeline.encode_text(text)),
      ).sample
      for heard, text in parts
    ]
  want = v[0] + 2.0 * (v[1] - v[0]) + 3.0 * (v[2] - v[1])
  torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  "size", [dict(height=40), dict(width=40), dict(height=-16)]
)
def test_says_which_sizes_are_right(pipeline, size):
  with pytest.raises(ValueError, match=r"4k \+ 1 frames, of multiples of 16"):
    pipeline("A man.", None, num_inference_steps=2, **size)


@pytest.mark.parametrize(
  ("given", "says"),
  [
    (dict(num_frames=401), r"401 frames, .* s: the model allows"),
    (dict(speech=np.zeros(10**6)), r"frames, .* s: the model allows"),
    (dict(num_inference_steps=0), "num_inference_steps=0: at least 2"),
    (dict(num_frames=0), "0 frames of"),
  ],
)
def test_says_what_is_too_much_or_too_little(pipeline, given, says):
  with pytest.raises(ValueError, match=says):
    pipeline("A man.", **given)


def test_sound_that_is_none_is_refused(pipeline, tmp_path):
  empty = tmp_path / "empty.wav"
  soundfile.write(empty, np.zeros(0, np.float32), 16_000)
  with pytest.raises(ValueError, match=r"empty\.wav: holds no sound"):
    pipeline.read_speech(empty)
  with pytest.raises(ValueError, match="not finite"):
    pipeline.read_speech(np.array([0.0, np.nan], np.float32))


def test_whole_numbers_of_sound_take_their_range(pipeline):
  wave = np.array([-1.0, 0.0, 0.25, 0.5])
  for kind in (np.int16, np.int32):
    whole = (wave * -float(np.iinfo(kind).min)).astype(kind)
    np.testing.assert_array_equal(pipeline.read_speech(whole).numpy(), wave)
  np.testing.assert_array_equal(pipeline.read_speech([*wave]).numpy(), wave)
  for kind in (np.int64, np.uint8, complex):
    with pytest.raises(ValueError, match=r"must be floats in -1\.\.1, int16"):
      pipeline.read_speech(np.ones(3, kind))


class StandInGenerator:
  """Of a device that this machine does not have."""

  device = torch.device("meta")


@pytest.mark.parametrize(
  ("generator", "where"),
  [
    (StandInGenerator(), "meta"),
    (None, "meta"),
    (torch.Generator("cpu"), "cpu"),
    ([torch.Generator("cpu")], "cpu"),
  ],
)
def test_noise_is_drawn_where_its_generator_is(
  pipeline, generator, where, monkeypatch
):
  randn, drawn = torch.randn, []
  device = torch.device("meta")
  monkeypatch.setattr(type(pipeline), "_execution_device", device)
  monkeypatch.setattr(
    torch,
    "randn",
    lambda shape, generator=None, device=None, dtype=None, layout=None: (
      drawn.append((torch.device(device or "cpu").type, dtype))
      or randn(shape, device=device, dtype=dtype)
    ),
  )
  monkeypatch.setattr(pipeline, "encode", lambda *_: pytest.fail("drawn"))
  with pytest.raises(pytest.fail.Exception, match="drawn"):
    pipeline("A man.", generator=generator)
  assert drawn == [(where, torch.float32)]


def test_a_seed_gives_the_noise_of_torch(pipeline):
  shape = (1, *pipeline.latent_shape(5, 32, 48))
  noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
  run = lambda **given: (
    pipeline(
      "A man.", num_inference_steps=2, output_type="latent", **given
    ).frames
  )
  drawn = run(generator=torch.Generator().manual_seed(3))
  assert torch.equal(drawn, run(latents=noise))


@pytest.mark.parametrize(
  "scheduler",
  [
    diffusers.UniPCMultistepScheduler,
    diffusers.FlowMatchEulerDiscreteScheduler,
    lambda **_: diffusers.FlowMatchEulerDiscreteScheduler(1),  # Falling times.
  ],
)
def test_schedulers_of_other_times_are_refused(
  pipeline, scheduler, monkeypatch
):
  make = getattr(scheduler, "from_config", lambda given: scheduler(**given))
  pipeline.scheduler = make(pipeline.scheduler.config)
  monkeypatch.setattr(pipeline, "encode", lambda *_: pytest.fail("encoded"))
  with pytest.raises(ValueError, match=r"goes from .* must rise from 0, noise"):
    pipeline("A man.", num_inference_steps=3)


class EvenTimes(scheduler_flow.FlowEulerScheduler):
  """A scheduler of a user's own."""

  def set_timesteps(self, num_inference_steps=None, device=None):
    """Lay out any number of steps, 1 too."""
    self.times = torch.linspace(0, 1, (num_inference_steps or 4) + 1)
    self.timesteps = self.times[:-1]
    self.step_index = None


def test_a_scheduler_of_ones_own_may_go_from_0_to_1(pipeline):
  noise = torch.randn(1, *pipeline.latent_shape(5, 32, 48))
  run = lambda steps: (
    pipeline(
      "A man.", latents=noise, num_inference_steps=steps, output_type="latent"
    ).frames
  )
  pipeline.scheduler = scheduler_flow.FlowEulerScheduler(
    4, "shifted_linear", 1.0
  )
  want = run(4)
  pipeline.scheduler = EvenTimes(4, "shifted_linear", 1.0)
  for steps in (1, None):  # After one step its only time is 0.
    got = run(steps)
  torch.testing.assert_close(got, want)


@pytest.mark.parametrize("cast", [(torch.bfloat16,), ("cpu", torch.bfloat16)])
def test_may_be_cast_after_loading(pipeline, cast):
  shape = (1, *pipeline.latent_shape(5, 32, 48))
  noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
  run = lambda: (
    pipeline(
      "A man.",
      np.sin(np.arange(3000, dtype=np.float32)),
      latents=noise,
      num_inference_steps=2,
      output_type="latent",
    ).frames
  )
  want = run()
  pipeline.to(*cast)
  got = run()
  assert pipeline.transformer.blocks[0].speech_attention.key.weight.dtype == (
    torch.bfloat16
  )
  error = (got - want).square().mean().sqrt()
  assert 0 < error < 0.05 * want.square().mean().sqrt()


def test_is_not_half_saved(pipeline, tmp_path):
  folder = tmp_path / "saved"
  with pytest.raises(NotImplementedError, match=r"saved: .* copy the folder"):
    pipeline.save_pretrained(folder)
  assert not folder.exists()


def test_a_step_is_found_once_then_counted():
  scheduler = scheduler_flow.FlowEulerScheduler(4, "shifted_linear", 3.0)
  times, velocity = scheduler.times.tolist(), torch.ones(1)
  unreadable = torch.empty((), device="meta")
  for start in (0, 2):
    scheduler.set_timesteps()
    x = torch.tensor([times[start]])
    for at in range(start, 4):
      t = scheduler.timesteps[at] if at == start else unreadable
      x = scheduler.step(velocity, t, x).prev_sample
      assert x.item() == pytest.approx(times[at + 1])


def test_layers_of_wav2vec2_may_return_tuples():
  """As those of transformers 4 do."""
  torch.manual_seed(0)
  made = speech_wav2vec2.Wav2Vec2SpeechEncoder(
    transformers.Wav2Vec2Config(
      hidden_size=12,
      num_hidden_layers=2,
      num_attention_heads=2,
      intermediate_size=16,
      conv_dim=(8,) * 7,
      num_conv_pos_embeddings=4,
      num_conv_pos_embedding_groups=2,
      interpolate="before",
    )
  ).eval()
  with torch.no_grad():
    wave = torch.randn(RATE // 4)
    want = made(wave, 24, 6)
    for layer in made.encoder.layers:
      layer.register_forward_hook(lambda module, given, out: (out,))
    assert torch.equal(made(wave, 24, 6), want)
