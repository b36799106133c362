"""Wan's backbone at its smallest, and a run with all that goes with it."""

from typing import Any

from ml_collections import ConfigDict

from experiments import _codecs
from mocha_jax import codecs
from tests import frozen_encoders, tiny, untrained, wan_vae_files

MODEL: dict[str, Any] = dict(
  name="wan",
  layers=2,
  width=48,
  ffn=64,
  heads=2,
  head=24,
  channels=4,
  patch=2,
  ratio=4,
  causal=True,
  max_frames=5,
  speech=dict(
    features=6,
    context=1,
    hidden=16,
    attention="window",
    order="slots",
    edge="clip",
    position="none",
    implementation="xla",
  ),
  frozen_text=dict(umt5=20),
  small_text=None,
  dtype="float32",
  attention="xla",
  remat="none",
  lora=dict(rank=0, alpha=1.0, targets=()),
)
LONG = dict(length=96)  # Bytes of the prompt, and its end.


def make_run(folder):
  """Return a run with Wan's VAE, UMT5 and wav2vec2, as `untrained.open_run`."""
  given: Any = tiny.get_config()
  _codecs.use_wan_vae(given)
  weights = folder / "vae.safetensors"
  wan_vae_files.write(weights, wan_vae_files.make_params(), "released")
  given.codec.update(
    weights=str(weights), width=wan_vae_files.WIDTH, dtype="float32"
  )
  given.clip.update(frames=9, height=32, width=48)
  given.speech_encoder, given.text_encoder = (
    ConfigDict(frozen_encoders.with_weights(of, folder / of["name"]))
    for of in (frozen_encoders.WAV2VEC2, frozen_encoders.UMT5 | LONG)
  )
  given.model = ConfigDict(
    MODEL
    | dict(width=96, heads=4, channels=16, max_frames=3)
    | dict(speech=MODEL["speech"] | dict(features=24))
    | dict(frozen_text=dict(umt5=16))
  )
  codec = codecs.fit(codecs.make_config(given.codec.to_dict()), [])
  return untrained.open_run(folder / "run", given, codec)
