"""MoCha-4B, for the ablations (arXiv 2503.23307, section 4.4; sizes ours).

24 layers of width 3,072: 3.624 B parameters in attention and feed-forward
parts, 0.906 B in speech attention, 0.057 B in the shared modulation, 0.053 B
in the speech projector, 0.021 B in the text projections.
"""

from ml_collections import ConfigDict

from experiments import mocha_30b


def get_config() -> ConfigDict:
  config = mocha_30b.get_config()
  config.model.update(layers=24, width=3072, ffn=8192, heads=24, head=128)
  return config
