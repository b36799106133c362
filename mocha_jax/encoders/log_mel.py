"""Speech as log mel energies: one vector per video frame.

Video frame i lasts from i / fps to (i + 1) / fps. It is cut into as many hops
as the config says; each gives the energies, in mel bands, of a Hann window of
25 ms around its centre. Nothing else is needed: no weights, no context.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Float32

from mocha_jax.encoders import sound

Arrays: TypeAlias = np.ndarray | jax.Array

_WINDOW = 400  # 25 ms.
_FFT = 512
# Digital silence is taken for noise at -80 dB of full scale.
_FLOOR = 1e-8
# Of ln(energy): a synthesizer's speech has -11.6 and 4.2, recorded speech
# about -14 and 3.3. Silence is then -1.6 everywhere, far from the zero vectors
# that say "no speech".
_MEAN = -12.0
_DEVIATION = 4.0


@dataclasses.dataclass(frozen=True)
class LogMelConfig:
  """Section `speech_encoder`: bands, and hops in one video frame."""

  name: Literal["log_mel"]
  mels: int
  hops_per_frame: int

  def __post_init__(self):
    if not 1 <= self.mels <= 128:
      raise ValueError(f"mels={self.mels} must be 1..128")
    if not 1 <= self.hops_per_frame <= 64:
      raise ValueError(f"hops_per_frame={self.hops_per_frame} must be 1..64")


class LogMel:
  """Turns a waveform into one vector per video frame."""

  def __init__(self, config: LogMelConfig):
    self.config = config

  @property
  def width(self) -> int:
    """Numbers per video frame."""
    return self.config.mels * self.config.hops_per_frame

  @property
  def filters(self) -> Float32[np.ndarray, "bins mels"]:
    """What each mel band takes of each frequency."""
    return _filters(self.config.mels)

  @property
  def constants(self) -> dict[str, int | float]:
    """All else that is computed with, for encoders outside."""
    return dict(
      mels=self.config.mels,
      hops_per_frame=self.config.hops_per_frame,
      sample_rate=sound.RATE,
      window=_WINDOW,
      fft=_FFT,
      floor=_FLOOR,
      mean=_MEAN,
      deviation=_DEVIATION,
    )

  def __call__(
    self,
    samples: Float[np.ndarray, "A"],
    *,
    sample_rate: int,
    fps: float,
    frames: int,
  ) -> Float32[np.ndarray, "frames E"]:
    """Encode the first `frames` / `fps` seconds of a mono waveform.

    Shorter sound is padded with silence, longer is cut. Each row is
    [hops_per_frame, mels], flattened. ValueError if the waveform is not mono.
    """
    samples = sound.at_rate(samples, sample_rate)
    given = (samples, self.filters)
    return np.asarray(self.features(*given, fps=fps, frames=frames, xp=np))

  def features(
    self,
    samples: Float[Arrays, "*B A"],
    filters: Float[Arrays, "bins mels"],
    *,
    fps: float,
    frames: int,
    xp: Any,
  ) -> Float[Arrays, "*B frames E"]:
    """Encode sound at 16 kHz, with the filters of the property.

    xp: numpy, or jax.numpy for what is to be compiled.
    """
    count = frames * self.config.hops_per_frame
    seconds = (np.arange(count) + 0.5) / (fps * self.config.hops_per_frame)
    # Of padded samples.
    starts = np.rint(seconds * sound.RATE).astype(np.int32)
    needed = int(starts[-1]) + _WINDOW if count else 0
    heard = samples[..., :needed]
    *batch, length = heard.shape
    pad = [(0, 0)] * len(batch) + [(_WINDOW // 2, needed - length)]
    padded = xp.pad(heard, pad)
    windows = padded[..., xp.asarray(starts)[:, None] + xp.arange(_WINDOW)]
    energies = _energies(windows, filters, xp)
    normal = (xp.log(energies + _FLOOR) - _MEAN) / _DEVIATION
    return normal.astype(np.float32).reshape(*batch, frames, self.width)

  def many(
    self,
    waveforms: Sequence[Float[np.ndarray, "A"]],
    *,
    sample_rate: int,
    fps: float,
    frames: int,
  ) -> Float32[np.ndarray, "B frames E"]:
    """Encode several sounds."""
    encode = functools.partial(
      self, sample_rate=sample_rate, fps=fps, frames=frames
    )
    return np.stack([*map(encode, waveforms)])


def _energies(
  windows: Float[Arrays, "*B x"], filters: Float[Arrays, "bins mels"], xp: Any
) -> Float[Arrays, "*B mels"]:
  """Return the energy in each band; a full-scale sine has about 1."""
  window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
  spectrum = xp.fft.rfft(windows * window, _FFT)
  power = xp.square(xp.abs(spectrum)) * (4 / np.square(window.sum()))
  return power.astype(np.float32) @ filters


@functools.lru_cache
def _filters(mels: int) -> Float32[np.ndarray, "bins mels"]:
  import librosa

  bank = librosa.filters.mel(sr=sound.RATE, n_fft=_FFT, n_mels=mels, norm=None)
  return np.ascontiguousarray(bank.T, np.float32)
