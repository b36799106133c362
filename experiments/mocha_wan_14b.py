"""Wan2.1 T2V 14B taught to hear: its speech path alone is trained, on v5p-256.

40 layers of width 5,120: 14.288 B parameters of Wan's own, frozen, and 4.250 B
of speech attention and its projector.

  mocha import --config mine.py --from Wan2.1-T2V-14B-Diffusers --run runs/wan
  mocha train --config mine.py --run runs/wan

mine.py, and what else can be trained, are as in mocha_wan_1_3b.

`mocha compile --config mocha_wan_14b` prints: 47.6 of 95.0 GiB; 32.8 % of the
forward pass computed again; exposed collectives 2.8 % of a step of 14.2 s;
predicted MFU 65.5 %.
"""

from ml_collections import ConfigDict

from experiments import mocha_wan_1_3b


def get_config() -> ConfigDict:
  config = mocha_wan_1_3b.get_config()
  config.model.update(layers=40, width=5120, ffn=13_824, heads=40)
  # A clip lies on one chip of 128: 32,760 tokens x 5,120 x 2 bytes = 335 MB, of
  # which 4 (input, attention, down and out) x 40 layers are 54 of 95 GB.
  config.model.remat = "attention+down+out"
  # 128 clips x 32,760 tokens = 4.2 M tokens per step.
  config.data.batch_size = 128
  config.optim.learning_rate = 3e-5
  return config
