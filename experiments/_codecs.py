"""Sections of codecs whose weights others have trained, at their real sizes.

The paths of the weights are the user's to give.
"""

from ml_collections import ConfigDict


def use_wan_vae(config: ConfigDict) -> None:
  """Make Wan2.1's VAE the codec; what follows the codec's ratios goes along."""
  for key in ("motion_weight", "color_weights"):
    del config.codec[key]
  config.codec.update(
    name="wan_vae", weights="", width=96, time=4, space=8, channels=16
  )
  # One latent frame at a time takes the least memory; frames stay whole.
  config.codec.update(causal=True, dtype="bfloat16", chunk=1, tile=0)
