"""Cartoon Talkers in minutes: close-ups that speak, on two CPU cores.

make quickstart
"""

from ml_collections import ConfigDict

from experiments import _base


def get_config() -> ConfigDict:
  config = _base.get_config()
  config.data.root = "data/quickstart"
  config.toy.train.text_only = 240
  config.toy.train.close_up = 640
  config.toy.train.medium_close_up = 480
  config.toy.test.close_up = 7
  config.toy.test.medium_close_up = 7
  config.toy.test.text_only = 2
  config.toy.test_other_language.close_up = 2
  config.toy.test_other_language.medium_close_up = 2

  # Twelve frames alike show a picture through much noise: words and speech
  # teach most where there is more of it.
  config.flow.shift = 4.0

  config.model.speech.order = "rope"

  # 6 clips x 12 latent frames x 16 tokens = 1,152 tokens per step.
  config.data.batch_size = 6
  config.data.stages = (
    dict(steps=600, weights=dict(text_only=0.2, close_up=0.8)),
    dict(
      steps=1000,
      weights=dict(text_only=0.2, close_up=0.4, medium_close_up=0.4),
    ),
  )
  config.train.total_steps = 1600
  config.optim.decay_steps = 1600
  config.sample.update(speech_guidance=1.5, text_guidance=1.5)
  return config
