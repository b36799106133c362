"""Speech by wav2vec 2.0: all layers' outputs, one vector per video frame.

Linear interpolation to video frames lies between convolutions and transformer
(MoCha's paper, `interpolate` "before") or follows the layers ("after").
"""

import torch
from transformers import Wav2Vec2Model

RATE = 16_000
SILENCE = 1e-7  # Added to a sound's variance.


def interpolate(x: torch.Tensor, count: int) -> torch.Tensor:
  """Turn [B S C] into [B count C], evenly from the first to the last."""
  last = x.shape[1] - 1
  place = torch.linspace(0, last, count, dtype=torch.float64, device=x.device)
  below = place.floor().long()
  share = (place - below)[:, None].float()
  left, right = (x[:, i.clamp(max=last)].float() for i in (below, below + 1))
  return (left + share * (right - left)).to(x.dtype)


class Wav2Vec2SpeechEncoder(Wav2Vec2Model):
  """Turns a waveform into one vector per video frame."""

  # Float32, whatever type is asked for: so is speech encoded for training.
  _keep_in_fp32_modules_strict = (
    "feature_extractor",
    "feature_projection",
    "encoder",
  )

  def _apply(self, fn, recurse=True):
    """Do what `to`, `bfloat16` and their like ask for; types stay."""

    def applied(x: torch.Tensor) -> torch.Tensor:
      y = fn(x)
      return y if y.dtype == x.dtype else x.to(y.device)

    return super()._apply(applied, recurse)

  @property
  def width(self) -> int:
    """Numbers per video frame."""
    return self.config.num_hidden_layers * self.config.hidden_size

  def forward(
    self, samples: torch.Tensor, fps: float, frames: int
  ) -> torch.Tensor:
    """Encode the first `frames` / `fps` seconds of [A], as [frames E].

    samples: at 16 kHz; shorter sound is padded with silence, longer is cut.
    """
    heard = samples[: round(frames / fps * RATE)].float()
    heard = (heard - heard.mean()) / (heard.var(correction=0) + SILENCE).sqrt()
    silence = round(frames / fps * RATE) - len(heard)
    sound = torch.nn.functional.pad(heard, (0, silence)).to(self.dtype)
    x = self.feature_extractor(sound[None]).transpose(1, 2)
    if self.config.interpolate == "before":
      x = interpolate(x, frames)
    x, _ = self.feature_projection(x)
    x = self.encoder.layer_norm(x + self.encoder.pos_conv_embed(x))
    outputs = []
    for layer in self.encoder.layers:
      x = layer(x)
      x = x[0] if isinstance(x, tuple) else x  # As in transformers 4.
      outputs.append(x)
    x = torch.cat(outputs, dim=-1)
    if self.config.interpolate == "after":
      x = interpolate(x, frames)
    return x[0].float()
