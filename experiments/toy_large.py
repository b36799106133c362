"""Cartoon Talkers of every kind: dialogues, two in a shot, a cut, an arm.

  mocha data toy --config toy_large && mocha data encode --config toy_large
  mocha train --config toy_large && mocha score runs/toy_large

Some 50 minutes on two CPU cores; what it reaches is in BUILD_NOTES.
"""

from ml_collections import ConfigDict

from experiments import _base


def get_config() -> ConfigDict:
  config = _base.get_config()
  config.data.root = "data/toy_large"
  config.toy.train = dict(
    text_only=800,
    close_up=1200,
    medium_close_up=1000,
    medium=1000,
    two_shot=2400,
    dialogue=2000,
  )
  config.toy.test = dict(
    text_only=8,
    close_up=16,
    medium_close_up=16,
    medium=12,
    two_shot=12,
    dialogue=12,
    dialogue_aba=8,
  )
  config.toy.test_other_language = dict(close_up=4, medium_close_up=4)

  config.codec.channels = 32
  config.model.speech.order = "rope"

  # Twelve frames alike show who is who through much noise: words teach only
  # where there is more of it.
  config.flow.shift = 4.0

  # 6 clips x 12 latent frames x 16 tokens = 1,152 tokens per step. Kinds come
  # one after another, the easy ones first, as in MoCha (table of stages).
  config.data.batch_size = 6
  config.data.stages = (
    dict(steps=700, weights=dict(text_only=0.2, close_up=0.8)),
    dict(
      steps=700,
      weights=dict(text_only=0.2, close_up=0.4, medium_close_up=0.4),
    ),
    dict(
      steps=900,
      weights=dict(
        text_only=0.2, close_up=0.2, medium_close_up=0.2, medium=0.4
      ),
    ),
    dict(
      steps=6700,
      weights=dict(
        text_only=0.2,
        close_up=0.08,
        medium_close_up=0.08,
        medium=0.14,
        two_shot=0.27,
        dialogue=0.23,
      ),
    ),
  )
  config.train.total_steps = 9000
  config.optim.decay_steps = 9000
  config.step.ema = 0.998
  # A little less speech than the model hears closes lips that should be; more
  # opens them, and the listener's.
  config.sample.update(speech_guidance=0.85, text_guidance=1.0)
  config.score.update(
    clips=84,
    other_language_clips=8,
    headline_kinds=(
      "close_up",
      "medium_close_up",
      "medium",
      "two_shot",
      "dialogue",
    ),
  )
  return config
