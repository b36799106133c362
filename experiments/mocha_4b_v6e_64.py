"""MoCha-4B on v6e-64.

mocha train --config mocha_4b_v6e_64
"""

from ml_collections import ConfigDict

from experiments import mocha_4b


def get_config() -> ConfigDict:
  config = mocha_4b.get_config()
  # A clip lies on 8 chips: 512 clips = 8 at a time x 64.
  config.step.accumulate = 64
  # 50 MB x 15.3 x 24 layers = 18 GB of 32.
  config.model.remat = "attention+down+out+qkv+gate+up+text"
  return config
