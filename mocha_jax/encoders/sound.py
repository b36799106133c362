"""What every speech encoder hears: mono at 16 kHz."""

import numpy as np
from jaxtyping import Float32, Num

from mocha_jax.resampling import resample

RATE = 16_000


def at_rate(
  samples: Num[np.ndarray, "A"], sample_rate: int
) -> Float32[np.ndarray, "a"]:
  """Resample a waveform to `RATE`.

  Raises:
    ValueError: it is not mono, or its numbers are integers.
  """
  if samples.ndim != 1:
    raise ValueError(f"speech of shape {samples.shape} must be mono, [A]")
  if not np.issubdtype(samples.dtype, np.floating):
    raise ValueError(
      f"speech of {samples.dtype}: must be floats from -1 to 1, as sound files "
      "are read"
    )
  return resample(samples, sample_rate, RATE)
