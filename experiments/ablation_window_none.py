"""The quickstart without order in the window, as in the paper.

One row of MoCha's table of speech attentions (section 4.4), in small.
"""

from ml_collections import ConfigDict

from experiments import quickstart


def get_config() -> ConfigDict:
  config = quickstart.get_config()
  config.model.speech.update(attention="window", order="none", position="none")
  return config
