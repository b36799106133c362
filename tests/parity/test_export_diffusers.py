import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import torch

from mocha_jax import codecs, config, prompts, run
from mocha_jax.batch import Condition
from mocha_jax.codecs.linear import CodecConfig
from mocha_jax.diffusion import guidance
from mocha_jax.diffusion.sample import SampleConfig, euler, times
from mocha_jax.encoders import make_speech_encoder, make_text_encoders
from mocha_jax.export import diffusers_folder
from mocha_jax.export.pytorch import transformer_movie_gen
from mocha_jax.kernels.speech_window import api
from mocha_jax.kernels.speech_window.geometry import Geometry
from mocha_jax.media import ClipFormat
from mocha_jax.sections import section
from mocha_jax.weights import files, tables
from tests import command, numerics
from tests.parity import compare

PROMPT = "A close-up of a man with brown skin and a blue shirt. He talks."
STEPS = 10
PLAYER = pathlib.Path(__file__).parent / "without_jax.py"


def randomized(params):
  """Parameters none of which is where it starts: not one part is idle."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(7), len(leaves))
  drawn = [
    x + 0.2 * jax.random.normal(key, x.shape) / max(x.shape[-1], 1) ** 0.5
    for key, x in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(tree, drawn)


def make_run(folder, changes):
  """A run that was never trained: random parameters, a codec of noise."""
  given = config.load(str(command.TINY))
  given.update_from_flattened_dict(changes)
  codec_config = section(CodecConfig, given.codec.to_dict(), "codec")
  frames = np.random.default_rng(0).integers(
    0, 256, (given.clip.frames, 64, 64, 3), np.uint8
  )
  folder.mkdir()
  codecs.fit(codec_config, [frames]).save(folder / "codec.npz")
  (folder / "config.json").write_text(config.to_json(given))
  opened = run.open_run(folder)
  network = run.make_network(given)
  params = jax.jit(lambda: randomized(network.init(jax.random.key(0))))()
  return opened, network, params


def stored(params):
  flat = tables.paths(jax.device_get(params))
  return {path: files.in_memory(x) for path, x in flat.items()}


def encode(given, text, speech):
  """Return a clip's condition and its null, as `generation` makes them."""
  clip = given["clip"]
  heard = make_speech_encoder(given["speech_encoder"])(
    speech,
    sample_rate=clip["sample_rate"],
    fps=clip["fps"],
    frames=clip["frames"],
  )
  (name, encoder), *_ = make_text_encoders(given["text_encoder"]).items()

  def condition(speech, text):
    ids, mask = encoder(text)
    return Condition(speech[None], {name: ids[None]}, {name: mask[None]})

  return condition(heard, text), condition(np.zeros_like(heard), "")


def sample(given, network, params, noise, conditions):
  condition, null = conditions
  sampling = given["sample"]
  scale = guidance.Guidance(
    speech=sampling["speech_guidance"], text=sampling["text_guidance"]
  )
  settings = section(SampleConfig, sampling | {"steps": STEPS}, "sample")
  return jax.jit(
    lambda params, noise: euler(
      guidance.nested(network.bind(params), null, scale),
      noise,
      condition,
      times(settings),
    )
  )(params, noise)


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_jax_the_same_clip_comes_out(variant, tmp_path):
  opened, network, params = make_run(tmp_path / "run", VARIANTS[variant])
  folder = tmp_path / "exported"
  diffusers_folder.write(opened, stored(params), folder, shard_bytes=10**5)
  index = "diffusion_pytorch_model.safetensors.index.json"
  assert (folder / "transformer" / index).is_file()

  given, codec = opened.config.to_dict(), opened.codec()
  clip = ClipFormat(**given["clip"])
  rng = np.random.default_rng(1)
  speech = np.convolve(rng.standard_normal(clip.samples), np.ones(9) / 90)
  speech = speech[: clip.samples].astype(np.float32)
  speech[: clip.samples // 4] = 0.0
  soundfile.write(tmp_path / "speech.wav", speech, clip.sample_rate, "FLOAT")
  shape = codec.latent_shape(clip.frames, clip.height, clip.width)
  noise = rng.standard_normal((1, *shape)).astype(np.float32)
  text = prompts.format(prompts.parse(PROMPT))
  conditions = encode(given, text, speech)
  latents = sample(given, network, params, noise, conditions)
  np.savez(
    tmp_path / "given.npz",
    prompt=PROMPT,
    speech=str(tmp_path / "speech.wav"),
    steps=STEPS,
    frames=clip.frames,
    noise=noise,
  )
  subprocess.run(
    [
      *(sys.executable, PLAYER, folder),
      *(tmp_path / "given.npz", tmp_path / "made.npz"),
    ],
    check=True,
    cwd=tmp_path,
    env={"HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
  )
  made = np.load(tmp_path / "made.npz")
  assert not made["jax"]
  assert made["folds"] == 1  # Once per clip, not per step.
  numerics.assert_sampled_alike(made["features"], conditions[0].speech[0])
  numerics.assert_sampled_alike(made["latents"], latents)
  frames = codec.decode(made["latents"])
  difference = np.rint(255 * made["frames"]).astype(int) - frames
  assert np.abs(difference).max() <= 1  # Halves may round either way.


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


def test_frozen_text_enters_as_ours(tiny_config):
  tiny_config.model.frozen_text = dict(ul2=12, byt5=7)
  with tiny_config.ignore_type():
    tiny_config.model.small_text = None
  network = run.make_network(tiny_config)
  params = jax.jit(lambda: randomized(network.init(jax.random.key(0))))()
  backbone = diffusers_folder.make_backbone(
    tiny_config.to_dict()["model"], network.shapes
  )
  leaves = tables.bind(backbone.table, network.shapes, network.letters)
  state = {
    name: torch.from_numpy(tensor.read().copy())
    for path, leaf in leaves.items()
    for name, tensor in leaf.their_tensors(stored(params)[path])
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
