import dataclasses
import re
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import torch
from ml_collections import ConfigDict

from mocha_jax import media, prompts, run
from mocha_jax.batch import Condition
from mocha_jax.export import diffusers_folder
from mocha_jax.export.pytorch import transformer_movie_gen
from mocha_jax.kernels.speech_window import api
from mocha_jax.kernels.speech_window.geometry import Geometry
from mocha_jax.models.speech import (
  GlobalSpeechAttention,
  Position,
  SpeechConfig,
)
from mocha_jax.network import Network, paths
from mocha_jax.weights import speech as weights_of_speech
from mocha_jax.weights import tables
from tests import frozen_encoders, numerics, small_wan, tiny, untrained
from tests.parity import compare, without_jax

STEPS = 10


VARIANTS = {
  "slots": {},
  "causal_rope_shift_bytes": {
    "clip.frames": 13,
    "codec.causal": True,
    "model.speech.order": "rope",
    "model.speech.edge": "shift",
    "text_encoder.unit": "bytes",
    "model.noise_skip": False,
  },
}


def movie_gen_with_all(folder):
  """Movie Gen with UL2, ByT5, CLIP and wav2vec2; hears without windows."""
  given: Any = tiny.get_config()
  folder.mkdir(exist_ok=True)
  words = re.findall(r"\w+", untrained.PROMPT)[2:]
  tokenizer = frozen_encoders.write_tokenizer(folder / "words.json", words)
  texts = (
    frozen_encoders.UL2 | dict(tokenizer=tokenizer),
    frozen_encoders.BYT5 | small_wan.LONG,
    frozen_encoders.CLIP
    | dict(tokenizer=tokenizer),  # Whose table has fewer rows than 24 tokens.
  )
  given.text_encoder, given.model.frozen_text = ConfigDict(), ConfigDict()
  for of in texts:
    section = frozen_encoders.with_weights(of, folder / of["name"])
    given.text_encoder[of["name"]] = ConfigDict(section)
    given.model.frozen_text[of["name"]] = of["sizes"]["width"]
  given.speech_encoder = ConfigDict(
    frozen_encoders.with_weights(
      frozen_encoders.WAV2VEC2 | dict(interpolate="after"), folder / "wav2vec2"
    )
  )
  given.model.small_text = None
  given.model.speech.update(features=24, attention="global", position="rope")
  return untrained.fit_run(folder / "run", given)


def wan_with_trained_text(folder):
  """Wan's backbone with hashed words, that hears with learned positions."""
  given: Any = tiny.get_config()
  given.clip.frames, given.codec.causal = 13, True
  text = dict(vocabulary=512, length=given.text_encoder.length, layers=1)
  given.model = ConfigDict(
    small_wan.MODEL
    | dict(channels=8, max_frames=4, frozen_text={}, small_text=text)
    | dict(
      speech=small_wan.MODEL["speech"]
      | dict(
        features=given.model.speech.features,
        attention="global",
        position="learned",
      )
    )
  )
  return untrained.fit_run(folder / "run", given)


MAKERS = {
  "movie_gen_with_all": movie_gen_with_all,
  "wan_with_all": small_wan.make_run,
  "wan_with_trained_text": wan_with_trained_text,
}


def write_speech(path, clip):
  """Write sound as recorders do, in stereo; return it as we read it."""
  rate, seconds = 44_100, clip["frames"] / clip["fps"]
  sound = np.random.default_rng(1).standard_normal((int(rate * seconds), 2))
  sound[: len(sound) // 4] = 0
  soundfile.write(path, 0.1 * sound, rate, "PCM_16")
  return media.read_sound(path, clip["sample_rate"])


@pytest.mark.parametrize("variant", [*VARIANTS, *MAKERS])
def test_without_jax_the_same_clip_comes_out(variant, tmp_path):
  opened, network, params = (
    MAKERS[variant](tmp_path)
    if variant in MAKERS
    else untrained.make_run(tmp_path / "run", VARIANTS[variant])
  )
  folder = tmp_path / "exported"
  diffusers_folder.write(
    opened, untrained.stored(params), folder, shard_bytes=10**5
  )
  index = "diffusion_pytorch_model.safetensors.index.json"
  assert (folder / "transformer" / index).is_file()

  given, codec = opened.config.to_dict(), opened.codec()
  clip = given["clip"]
  wav = tmp_path / "speech.wav"
  speech = write_speech(wav, clip)
  noise = untrained.make_noise(given, codec, seed=2)
  text = prompts.format(prompts.parse(untrained.PROMPT))
  conditions = untrained.encode(given, text, speech)
  latents = untrained.sample(given, network, params, noise, conditions, STEPS)
  inputs = dict(
    prompt=untrained.PROMPT,
    speech=str(wav),
    steps=STEPS,
    frames=clip["frames"],
    noise=noise,
  )
  made = without_jax.play(folder, tmp_path, inputs | dict(dtype="float32"))
  assert not made["jax"]
  assert made["folds"] == 1  # Once per clip, not per step.
  numerics.assert_sampled_alike(made["features"], conditions[0].speech[0])
  numerics.assert_sampled_alike(made["latents"], latents)
  frames = codec.decode(made["latents"])
  difference = np.rint(255 * made["frames"]).astype(int) - frames
  assert np.abs(difference).max() <= 1  # Halves may round either way.
  if variant == "movie_gen_with_all":
    half = without_jax.play(folder, tmp_path, inputs | dict(dtype="bfloat16"))
    error = np.sqrt(np.mean((half["latents"] - latents) ** 2))
    assert 0 < error < 0.05 * np.sqrt(np.mean(latents**2))


def test_more_text_encoders_than_the_pipeline_takes_are_refused(tmp_path):
  opened, _, params = untrained.make_run(tmp_path / "run", {})
  text = opened.config.text_encoder
  opened.config.text_encoder = ConfigDict({str(i): text for i in range(4)})
  folder = tmp_path / "exported"
  with pytest.raises(NotImplementedError, match=r"has 4 encoders.*at most 3"):
    diffusers_folder.write(opened, untrained.stored(params), folder)
  assert not folder.exists()


@pytest.mark.parametrize("order", ["none", "slots", "rope"])
@pytest.mark.parametrize("edge", ["clip", "shift"])
@pytest.mark.parametrize("causal", [False, True])
def test_speech_attention_agrees(order, edge, causal):
  geometry = Geometry(ratio=4, causal=causal, edge=edge, order=order)
  rng = np.random.default_rng(2)
  draw = lambda *shape: jnp.asarray(
    rng.standard_normal(shape) / shape[0] ** 0.5, jnp.float32
  )
  D, N, H, tokens = 24, 3, 8, 16 + causal
  frames = geometry.frames(tokens)
  weights = api.Weights(
    query=draw(D, N, H),
    key=draw(D, N, H),
    value=draw(D, N, H),
    out=draw(N, H, D),
    key_norm=1 + 0.1 * draw(H),
    slots=draw(6, D) if order == "slots" else None,
  )
  x, speech = draw(2, frames, 5, D) * 5, draw(2, tokens, D) * 5
  folded = api.fold_speech(speech, weights, geometry, frames)
  want = api.windowed_attention(x, folded, implementation="xla")
  theirs = transformer_movie_gen.SpeechWindowAttention(
    D, N, H, 4, causal, edge, order
  )
  state = {
    "query.weight": weights.query.reshape(D, -1).T,
    "key.weight": weights.key.reshape(D, -1).T,
    "value.weight": weights.value.reshape(D, -1).T,
    "out.weight": weights.out.reshape(-1, D).T,
    "key_norm.weight": weights.key_norm,
  }
  if order == "slots":
    state["slots"] = weights.slots
  to_torch = lambda x: torch.from_numpy(np.array(x))
  theirs.load_state_dict({k: to_torch(v) for k, v in state.items()})
  with torch.no_grad():
    got = theirs(to_torch(x).flatten(1, 2), theirs.fold(to_torch(speech)))
  compare.assert_parity(want.reshape(got.shape), got)


@pytest.mark.parametrize("position", typing.get_args(Position))
@pytest.mark.parametrize("causal", [False, True])
def test_global_speech_attention_agrees(position, causal):
  D, N, H, tokens = 24, 3, 8, 16 + causal
  geometry = Geometry(ratio=4, causal=causal, edge="clip", order="none")
  config = SpeechConfig(
    **(small_wan.MODEL["speech"] | dict(attention="global", position=position))
  )
  network = Network(
    lambda rngs: GlobalSpeechAttention(
      config, geometry, dict(D=D, N=N, H=H, S=tokens + 4), rngs=rngs
    )
  )
  params = untrained.randomized(network.init(jax.random.key(0)))
  rng = np.random.default_rng(2)
  frames = geometry.frames(tokens)
  x, speech = (
    rng.standard_normal((2, count, D)).astype(np.float32)
    for count in (5 * frames, tokens)
  )
  want = network.bind(params)(jnp.asarray(x), jnp.asarray(speech), frames)
  theirs = transformer_movie_gen.GlobalSpeechAttention(
    D, N, H, 4, causal, position, tokens + 4
  )
  prefix = "blocks.speech_attention."
  named = [
    dataclasses.replace(
      entry,
      ours=entry.ours.removeprefix(prefix),
      theirs=entry.theirs.removeprefix("blocks.{layer}.speech_attention."),
    )
    for entry in weights_of_speech.entries()
    if entry.ours.removeprefix(prefix) in paths(params)
  ]
  leaves = tables.bind(named, network.shapes, network.letters)
  stored = untrained.stored(params)
  theirs.load_state_dict(
    {
      name: torch.from_numpy(tensor.read().copy())
      for path, leaf in leaves.items()
      for name, tensor in leaf.their_tensors(stored[path])
    }
  )
  with torch.no_grad():
    heard = theirs.fold(torch.from_numpy(speech))
    got = theirs(torch.from_numpy(x), heard)
  compare.assert_parity(want, got)


def test_frozen_text_enters_as_ours(tiny_config):
  tiny_config.model.frozen_text = dict(ul2=12, byt5=7)
  with tiny_config.ignore_type():
    tiny_config.model.small_text = None
  network = run.make_network(tiny_config)
  params = jax.jit(
    lambda: untrained.randomized(network.init(jax.random.key(0)))
  )()
  backbone = diffusers_folder.make_backbone(
    tiny_config.to_dict()["model"], network.shapes
  )
  leaves = tables.bind(backbone.table, network.shapes, network.letters)
  state = {
    name: torch.from_numpy(tensor.read().copy())
    for path, leaf in leaves.items()
    for name, tensor in leaf.their_tensors(untrained.stored(params)[path])
  }
  theirs = transformer_movie_gen.MochaMovieGenTransformer3DModel(
    **backbone.config
  )
  theirs.load_state_dict(state)
  rng = np.random.default_rng(3)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  mask = np.arange(6) < np.array([[6], [2]])
  condition = Condition(
    speech=draw(2, 16, tiny_config.model.speech.features),
    text={"ul2": draw(2, 6, 12), "byt5": draw(2, 6, 7)},
    text_mask={"ul2": mask, "byt5": mask[::-1].copy()},
  )
  x, t = draw(2, 4, 8, 8, 8), np.array([0.1, 0.7], np.float32)
  want = jax.jit(lambda p, *a: network.bind(p)(*a))(params, x, t, condition)
  tensors = lambda tree: {k: torch.from_numpy(v) for k, v in tree.items()}
  with torch.no_grad():
    encoded = theirs.encode(
      torch.from_numpy(condition.speech),
      tensors(condition.text),
      tensors(condition.text_mask),
    )
    got = theirs(
      torch.from_numpy(x).movedim(-1, 1), torch.from_numpy(t), encoded
    ).sample.movedim(1, -1)
  compare.assert_parity(want, got)
