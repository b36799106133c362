"""The quickstart's own checkpoint, played by someone who has no JAX."""

import pathlib

import jax
import numpy as np
import pytest
import soundfile

from mocha_jax.evaluation import score
from mocha_jax.generation import Generator, replace
from tests import command, numerics
from tests.parity import without_jax

STEPS, SEED = 10, 3
FEW = {
  "toy.train.text_only": 2,
  "toy.train.close_up": 6,
  "toy.train.medium_close_up": 2,
  "toy.test.close_up": 1,
  "toy.test.medium_close_up": 0,
  "toy.test.text_only": 0,
  "toy.test_other_language.close_up": 0,
  "toy.test_other_language.medium_close_up": 0,
  "train.total_steps": 3,
}


@pytest.fixture
def quickstart(request, tmp_path) -> pathlib.Path:
  """The run that --run names, in its folder; else one of three steps."""
  if given := request.config.getoption("--run"):
    return pathlib.Path(given).absolute()
  changes = [f"--config.{name}={value}" for name, value in FEW.items()]
  for verb in (("data", "toy"), ("data", "encode"), ("train",)):
    command.mocha(*verb, "--config", "quickstart", *changes, cwd=tmp_path)
  return tmp_path / "runs" / "quickstart"


class Keeping:
  """A codec that keeps the latents it decodes."""

  def __init__(self, codec):
    self.codec = codec

  def __getattr__(self, name):
    return getattr(self.codec, name)

  def decode(self, latents):
    self.latents = latents
    return self.codec.decode(latents)


def test_held_out_speech_makes_the_same_clip(quickstart, tmp_path, monkeypatch):
  monkeypatch.chdir(quickstart.parents[1])  # Where its data lie.
  generator = Generator.from_run(quickstart)
  clip, codec = generator.clip, Keeping(generator.codec)
  generator.codec = codec
  raw = f"{generator.config.to_dict()['data']['root']}/raw"
  record = next(x for x in score.choose(raw, "test", 9) if len(x["speech"]))
  frames = generator.generate(
    [record["prompt"]],
    [record["speech"]],
    seed=SEED,
    settings=replace(generator.settings, steps=STEPS),
  )
  out = tmp_path / "serving"
  command.mocha(
    *("export", "--run", quickstart, "--format", "diffusers", "--out", out),
    cwd=pathlib.Path.cwd(),
  )
  wav = tmp_path / "speech.wav"
  soundfile.write(wav, record["speech"], clip.sample_rate, "FLOAT")
  shape = codec.latent_shape(clip.frames, clip.height, clip.width)
  (key,) = jax.random.split(jax.random.key(SEED), 1)
  inputs = dict(
    prompt=record["prompt"],
    speech=str(wav),
    steps=STEPS,
    frames=clip.frames,
    noise=np.asarray(jax.random.normal(key, shape))[None],
    dtype="float32",
  )
  made = without_jax.play(out, tmp_path, inputs)
  assert not made["jax"]
  numerics.assert_sampled_alike(made["latents"], codec.latents)
  difference = np.rint(255 * made["frames"]).astype(int) - frames
  assert np.abs(difference).max() <= 1  # Halves may round either way.
