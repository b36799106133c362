"""MoCha-4B with 12 heads of 256 for 24 of 128, on v6e-64.

As many parameters and operations; see mocha_30b_heads_256.

  mocha train --config mocha_4b_heads_256

`mocha compile --config mocha_4b_heads_256` prints: 24.8 of 31.2 GiB; 14.0 % of
the forward pass computed again; exposed collectives 13.3 % of a step of 93.3 s;
predicted MFU 47.6 %.
"""

from ml_collections import ConfigDict

from experiments import mocha_4b_v6e_64


def get_config() -> ConfigDict:
  config = mocha_4b_v6e_64.get_config()
  config.model.update(heads=12, head=256)
  # A clip lies on 4 chips with 8 frames and 3 heads: 16 at a time x 32.
  config.mesh.context = 4
  config.step.accumulate = 32
  # 101 MB x 7 x 24 layers = 17 GB of 32.
  config.model.remat = "attention+down+out+qkv"
  return config
