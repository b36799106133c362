"""MoCha-30B on v5p-2048: 1,024 chips.

  mocha train --config mocha_30b_v5p_2048

`mocha compile --config mocha_30b_v5p_2048` prints: 73.2 of 95.0 GiB; 3.1 % of
the forward pass computed again; exposed collectives 6.3 % of a step of 38.4 s;
predicted MFU 72.2 %.
"""

from ml_collections import ConfigDict

from experiments import mocha_30b


def get_config() -> ConfigDict:
  config = mocha_30b.get_config()
  # 512 clips = 128 at a time x 4; a clip lies on 8 chips.
  config.step.accumulate = 4
  return config
