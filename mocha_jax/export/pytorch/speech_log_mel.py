"""Speech as log mel energies: one vector per video frame.

Video frame i lasts from i / fps to (i + 1) / fps. It is cut into hops; each
gives the energies, in mel bands, of a Hann window of 25 ms around its centre.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import is_accelerate_available


class LogMelSpeechEncoder(ModelMixin, ConfigMixin):
  """Turns a waveform into one vector per video frame.

  sample_rate: of the waveform; window, fft: in samples; floor, mean and
  deviation: of the logarithms of energies. `filters` are the mel bands.
  """

  # diffusers refuses to load what names such parts without accelerate.
  _keep_in_fp32_modules = ["filters"] if is_accelerate_available() else None

  @register_to_config
  def __init__(
    self,
    mels: int,
    hops_per_frame: int,
    sample_rate: int,
    window: int,
    fft: int,
    floor: float,
    mean: float,
    deviation: float,
  ):
    super().__init__()
    filters = torch.zeros(fft // 2 + 1, mels, dtype=torch.float32)
    self.register_buffer("filters", filters)

  def _apply(self, fn, recurse=True):
    """Do what `to`, `bfloat16` and their like ask for; types stay."""

    def applied(x: torch.Tensor) -> torch.Tensor:
      y = fn(x)
      return y if y.dtype == x.dtype else x.to(y.device)

    return super()._apply(applied, recurse)

  @property
  def width(self) -> int:
    """Numbers per video frame."""
    return self.config.mels * self.config.hops_per_frame

  def forward(
    self, samples: torch.Tensor, fps: float, frames: int
  ) -> torch.Tensor:
    """Encode the first `frames` / `fps` seconds of [A] as [frames E].

    Shorter sound is padded with silence, longer is cut.
    """
    given, samples = self.config, samples.to(self.filters)
    hops = torch.arange(frames * given.hops_per_frame, dtype=torch.float64)
    seconds = (hops + 0.5) / (fps * given.hops_per_frame)
    starts = (seconds * given.sample_rate).round().long().to(samples.device)
    half = given.window // 2
    heard = samples[: int(starts[-1]) + given.window]
    silence = samples.new_zeros
    padded = torch.cat([silence(half), heard, silence(given.window)])
    padded = torch.cat([padded, silence(max(0, int(starts[-1]) - len(heard)))])
    windows = padded.unfold(0, given.window, 1)[starts]
    hann = torch.hann_window(given.window).to(samples)
    power = torch.fft.rfft(windows * hann, given.fft).abs().square()
    energies = (power * (4 / hann.sum() ** 2)) @ self.filters
    normal = ((energies + given.floor).log() - given.mean) / given.deviation
    return normal.reshape(frames, self.width)
