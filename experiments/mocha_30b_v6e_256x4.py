"""MoCha-30B on 4 slices of v6e-256: 1,024 chips of 32 GB.

  mocha train --config mocha_30b_v6e_256x4

`mocha compile --config mocha_30b_v6e_256x4` prints: 27.8 of 31.2 GiB; 30.4 % of
the forward pass computed again; exposed collectives 15.6 % of a step of 43.1 s;
predicted MFU 32.1 %. Heads of 128 fill half of the matrix units: see
mocha_30b_heads_256.
"""

from ml_collections import ConfigDict

from experiments import mocha_30b


def get_config() -> ConfigDict:
  config = mocha_30b.get_config()
  # Parameters are split within a slice, clips across slices too: 4 x 32 clips
  # at a time, each on 8 chips with 4 frames and 6 heads, x 4 = 512.
  config.mesh.update(slice=4, context=8)
  config.step.accumulate = 4
  # 101 MB x 4 (input, attention, down, out) x 48 layers = 19 GB.
  config.model.remat = "attention+down+out"
  return config
