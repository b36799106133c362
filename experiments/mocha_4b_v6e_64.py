"""MoCha-4B on v6e-64.

  mocha train --config mocha_4b_v6e_64

`mocha compile --config mocha_4b_v6e_64` prints: 24.1 of 31.2 GiB; 0.2 % of the
forward pass computed again; exposed collectives 18.0 % of a step of 151.8 s;
predicted MFU 29.3 %.
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
