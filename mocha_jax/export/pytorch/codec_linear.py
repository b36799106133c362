"""A linear codec: blocks of pixels to latents and back by one product each."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import is_accelerate_available
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn


class LinearCodec(ModelMixin, ConfigMixin):
  """Turns [B 3 F H W] in -1..1 into latents [B c f h w] of unit variance.

  A block is `time` frames of `space` x `space` pixels; causal: the first frame
  is a block of its own, repeated. Pixels are 0..255 inside.
  """

  # Float32, whatever type is asked for: bfloat16 has half a level near white.
  # diffusers refuses to load what names such parts without accelerate.
  _keep_in_fp32_modules = (
    ["encoder", "decoder"] if is_accelerate_available() else None
  )
  _supports_param_buffer_assignment = False

  @register_to_config
  def __init__(self, time: int, space: int, channels: int, causal: bool):
    super().__init__()
    block = time * space * space * 3
    self.encoder = nn.Linear(block, channels, dtype=torch.float32)
    self.decoder = nn.Linear(channels, block, dtype=torch.float32)

  def _apply(self, fn, recurse=True):
    """Do what `to`, `bfloat16` and their like ask for; types stay."""

    def applied(x: torch.Tensor) -> torch.Tensor:
      y = fn(x)
      return y if y.dtype == x.dtype else x.to(y.device)

    return super()._apply(applied, recurse)

  @apply_forward_hook
  def encode(self, frames: torch.Tensor) -> torch.Tensor:
    """Return the latents of frames."""
    time, space = self.config.time, self.config.space
    if self.config.causal:
      frames = torch.cat([frames[:, :, :1]] * (time - 1) + [frames], dim=2)
    blocks = frames.unflatten(4, (-1, space)).unflatten(3, (-1, space))
    blocks = blocks.unflatten(2, (-1, time)).permute(0, 2, 4, 6, 3, 5, 7, 1)
    pixels = (blocks.flatten(4) + 1) * 127.5
    return self.encoder(pixels).permute(0, 4, 1, 2, 3)

  @apply_forward_hook
  def decode(
    self, latents: torch.Tensor, return_dict: bool = True
  ) -> DecoderOutput | tuple[torch.Tensor]:
    """Return the frames of latents; they may go beyond -1..1."""
    time, space = self.config.time, self.config.space
    blocks = self.decoder(latents.permute(0, 2, 3, 4, 1)) / 127.5 - 1
    blocks = blocks.unflatten(4, (time, space, space, 3))
    frames = blocks.permute(0, 7, 1, 4, 2, 5, 3, 6)
    frames = frames.flatten(6, 7).flatten(4, 5).flatten(2, 3)
    if self.config.causal:
      frames = frames[:, :, time - 1 :]
    return DecoderOutput(frames) if return_dict else (frames,)
