"""MoCha-30B on 4 slices of v6e-256: 1,024 chips of 32 GB.

mocha train --config mocha_30b_v6e_256x4
"""

from ml_collections import ConfigDict

from experiments import mocha_30b


def get_config() -> ConfigDict:
  config = mocha_30b.get_config()
  # Parameters are split within a slice, clips across slices too: 4 x 16 clips
  # at a time, each on 16 chips with 2 frames and 3 heads, x 8 = 512.
  config.mesh.update(slice=4, context=16)
  config.step.accumulate = 8
  # 4,096 tokens x 6,144 x 2 bytes = 50 MB; x 7 (input, attention, down, out,
  # qkv) x 48 layers = 17 GB.
  config.model.remat = "attention+down+out+qkv"
  return config
