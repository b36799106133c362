"""What every speech encoder hears: mono at 16 kHz."""

import numpy as np
from jaxtyping import Float, Float32

RATE = 16_000


def at_rate(
  samples: Float[np.ndarray, "A"], sample_rate: int
) -> Float32[np.ndarray, "a"]:
  """Resample a waveform to `RATE`; ValueError if it is not mono."""
  if samples.ndim != 1:
    raise ValueError(f"speech of shape {samples.shape} must be mono, [A]")
  samples = samples.astype(np.float32)
  if sample_rate == RATE or not len(samples):
    return samples
  import soxr

  return soxr.resample(samples, sample_rate, RATE).astype(np.float32)
