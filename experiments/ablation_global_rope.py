"""The quickstart with global speech attention with RoPE.

One row of MoCha's table of speech attentions (section 4.4), in small.
"""

from ml_collections import ConfigDict

from experiments import quickstart


def get_config() -> ConfigDict:
  config = quickstart.get_config()
  config.model.speech.update(attention="global", order="none", position="rope")
  return config
