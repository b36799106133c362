"""MoCha-30B on 256 chips of TPU7x, two devices each.

mocha train --config mocha_30b_tpu7x
"""

from ml_collections import ConfigDict

from experiments import mocha_30b


def get_config() -> ConfigDict:
  # 512 devices of 96 GB, as many and as large as those of v5p-1024.
  return mocha_30b.get_config()
