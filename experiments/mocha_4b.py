"""MoCha-4B, for the ablations (arXiv 2503.23307, section 4.4), on v5e-256.

24 layers of width 3,072 (sizes ours): 3.624 B parameters in attention and
feed-forward parts, 0.906 B in speech attention, 0.057 B in the shared
modulation, 0.053 B in the speech projector, 0.021 B in the text projections.

  mocha train --config mocha_4b

`mocha compile --config mocha_4b` prints: 11.9 of 15.8 GiB; 14.2 % of the
forward pass computed again; exposed collectives 17.0 % of a step of 86.7 s;
predicted MFU 59.7 %.
"""

from ml_collections import ConfigDict

from experiments import mocha_30b


def get_config() -> ConfigDict:
  config = mocha_30b.get_config()
  config.model.update(layers=24, width=3072, ffn=8192, heads=24, head=128)
  # A clip lies on 8 chips: 512 clips = 32 at a time x 16.
  config.step.accumulate = 16
  # 8,192 tokens x 3,072 x 2 bytes = 50 MB; x 7 (input, attention, down, out,
  # qkv) x 24 layers = 8.5 GB of 16.
  config.model.remat = "attention+down+out+qkv"
  return config
