"""A run of tests/tiny.py that was never trained, and clips sampled with it."""

import jax
import jax.numpy as jnp
import numpy as np

from mocha_jax import codecs, config, run
from mocha_jax.batch import Condition
from mocha_jax.codecs.linear import CodecConfig
from mocha_jax.diffusion import guidance
from mocha_jax.diffusion.sample import SampleConfig, euler, times
from mocha_jax.encoders import make_speech_encoder, make_text_encoders
from mocha_jax.media import ClipFormat
from mocha_jax.network import paths
from mocha_jax.sections import section
from mocha_jax.training import stream
from mocha_jax.weights import files
from tests import command

PROMPT = "A close-up of a man with brown skin and a blue shirt. He talks."


def randomized(params):
  """Return parameters none of which is where it starts: no part is idle."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(7), len(leaves))
  drawn = [
    x + 0.2 * jax.random.normal(key, x.shape) / max(x.shape[-1], 1) ** 0.5
    for key, x in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(tree, drawn)


def make_run(folder, changes):
  """Return a run of random parameters and a codec of noise, and its network."""
  given = config.load(str(command.TINY))
  given.update_from_flattened_dict(changes)
  return fit_run(folder, given)


def fit_run(folder, given):
  """Return a run of this config with a codec of noise, as `open_run`."""
  sections = given.to_dict()
  codec_config = section(CodecConfig, sections["codec"], "codec")
  frames = np.random.default_rng(0).integers(
    0, 256, (sections["clip"]["frames"], 64, 64, 3), np.uint8
  )
  return open_run(folder, given, codecs.fit(codec_config, [frames]))


def open_run(folder, given, codec):
  """Return a run of this config, its network and random parameters."""
  folder.mkdir()
  codec.save(folder / "codec.npz")
  (folder / "config.json").write_text(config.to_json(given))
  opened = run.open_run(folder)
  network = run.make_network(given)
  params = jax.jit(lambda: randomized(network.init(jax.random.key(0))))()
  return opened, network, params


def save(opened, params):
  """Write the only checkpoint of a run."""
  promise = lambda x: stream.Promise(
    x.shape, x.dtype, None, lambda: stream.held(x)
  )
  stream.write(opened.checkpoints, jax.tree.map(promise, params))


def stored(params):
  """Return the parameters by path, as an exporter is given them."""
  flat = paths(jax.device_get(params))
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
  encoders = make_text_encoders(given["text_encoder"])

  def condition(speech, text):
    read = {name: encoder(text) for name, encoder in encoders.items()}
    texts, masks = (
      {name: jnp.asarray(pair[i])[None] for name, pair in read.items()}
      for i in (0, 1)
    )
    return Condition(jnp.asarray(speech)[None], texts, masks)

  return condition(heard, text), condition(np.zeros_like(heard), "")


def sample(given, network, params, noise, conditions, steps):
  """Return the latents of a clip, sampled in so many steps."""
  condition, null = conditions
  sampling = given["sample"]
  scale = guidance.Guidance(
    speech=sampling["speech_guidance"], text=sampling["text_guidance"]
  )
  settings = section(SampleConfig, sampling | {"steps": steps}, "sample")
  return jax.jit(
    lambda params, noise: euler(
      guidance.nested(network.bind(params), null, scale),
      noise,
      condition,
      times(settings),
    )
  )(params, noise)


def make_speech(given, seed):
  """Return a sound as long as a clip: silence, then something like speech."""
  clip = ClipFormat(**given["clip"])
  rng = np.random.default_rng(seed)
  speech = np.convolve(rng.standard_normal(clip.samples), np.ones(9) / 90)
  speech = speech[: clip.samples].astype(np.float32)
  speech[: clip.samples // 4] = 0.0
  return speech


def make_noise(given, codec, seed):
  """Return what a clip is sampled from."""
  clip = given["clip"]
  shape = codec.latent_shape(clip["frames"], clip["height"], clip["width"])
  rng = np.random.default_rng(seed)
  return rng.standard_normal((1, *shape)).astype(np.float32)
