"""MoCha-30B on 256 chips of TPU7x, two devices each.

  mocha train --config mocha_30b_tpu7x

`mocha compile --config mocha_30b_tpu7x` prints: 152.1 of 189.5 GiB; 3.1 % of
the forward pass computed again; exposed collectives 16.5 % of a step of 59.6 s;
predicted MFU 37.0 %: heads of 128 fill half of its matrix units.
"""

from ml_collections import ConfigDict

from experiments import mocha_30b


def get_config() -> ConfigDict:
  # 512 devices of 96 GB, as many and as large as those of v5p-1024.
  return mocha_30b.get_config()
