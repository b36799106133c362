"""Cartoon Talkers at their smallest: made, encoded and trained in seconds."""

from ml_collections import ConfigDict

from experiments import _base


def get_config() -> ConfigDict:
  config = _base.get_config()
  config.clip.frames = 16
  config.toy.train.text_only = 2
  config.toy.train.close_up = 4
  config.toy.test.close_up = 2
  config.codec.channels = 8
  config.text_encoder.vocabulary = 512
  config.data.batch_size = 2
  config.model.update(layers=1, width=64, ffn=64, heads=2, head=32)
  config.model.speech.hidden = 16
  config.train.update(total_steps=2, log_every=1, save_every=1, keep=2)
  config.optim.update(warmup_steps=1, decay_steps=4)
  config.sample.steps = 2
  return config
