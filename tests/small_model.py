"""A model small enough to be compiled many times, with every part alive."""

from mocha_jax.models.embed import TrainedTextConfig
from mocha_jax.models.movie_gen import ModelConfig
from mocha_jax.models.speech import SpeechConfig

CONFIG = ModelConfig(
  layers=2,
  width=32,
  ffn=64,
  heads=4,
  head=8,
  channels=5,
  patch=2,
  ratio=4,
  causal=False,
  max_frames=4,
  max_rows=2,
  max_columns=3,
  speech=SpeechConfig(
    features=6,
    context=1,
    hidden=16,
    attention="window",
    order="slots",
    edge="clip",
    position="none",
    implementation="auto",
  ),
  frozen_text={},
  small_text=TrainedTextConfig(vocabulary=64, length=8, layers=1),
  noise_skip=True,
  dtype="float32",
  attention="auto",
  remat="none",
)
