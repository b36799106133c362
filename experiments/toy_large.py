"""Cartoon Talkers of every kind: dialogues, two in a shot, a cut, an arm.

  mocha data toy --config toy_large && mocha data encode --config toy_large
  mocha train --config toy_large && mocha score runs/toy_large

49 minutes on two CPU cores. A first run reached a mouth correlation of 0.82
and closed lips on 55 % of m, b, p; it did not tell two people apart
(BUILD_NOTES).
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
    medium=800,
    two_shot=1000,
    dialogue=1000,
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

  # 6 clips x 12 latent frames x 16 tokens = 1,152 tokens per step. Each
  # stage gives 40 % to a new, harder kind, as in MoCha (table of stages).
  config.data.batch_size = 6
  config.data.stages = (
    dict(steps=1000, weights=dict(text_only=0.2, close_up=0.8)),
    dict(
      steps=1200,
      weights=dict(text_only=0.2, close_up=0.4, medium_close_up=0.4),
    ),
    dict(
      steps=1400,
      weights=dict(
        text_only=0.2, close_up=0.2, medium_close_up=0.2, medium=0.4
      ),
    ),
    dict(
      steps=5400,
      weights=dict(
        text_only=0.2,
        close_up=0.1,
        medium_close_up=0.1,
        medium=0.2,
        two_shot=0.2,
        dialogue=0.2,
      ),
    ),
  )
  config.train.total_steps = 9000
  config.optim.decay_steps = 9000
  config.step.ema = 0.998
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
