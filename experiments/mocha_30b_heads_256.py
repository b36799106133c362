"""MoCha-30B with 24 heads of 256 for 48 of 128, on 4 slices of v6e-256.

The matrix units of v6e and TPU7x multiply 256 x 256: heads of 128 fill half of
them. As many parameters and operations. Ours; the paper does not say.

  mocha train --config mocha_30b_heads_256

`mocha compile --config mocha_30b_heads_256` prints: 27.5 of 31.2 GiB; 30.3 % of
the forward pass computed again; exposed collectives 21.5 % of a step of 31.6 s;
predicted MFU 43.7 %.
"""

from ml_collections import ConfigDict

from experiments import mocha_30b_v6e_256x4


def get_config() -> ConfigDict:
  config = mocha_30b_v6e_256x4.get_config()
  config.model.update(heads=24, head=256)
  return config
