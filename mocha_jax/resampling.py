"""Sound at another rate: alike here and where an export is played.

It needs numpy alone, since an exported pipeline takes a copy of this file along
to where no library that resamples is. No two of those agree near half the rate,
which the logarithm of a mel band makes much of.
"""

import math

import numpy as np

_ZEROS = 64  # Of the sinc, on each side.
_BETA = 14.0  # Of Kaiser's window.
_PASSED = 0.97  # Of half the lower rate.


def resample(samples, rate: int, wanted: int) -> np.ndarray:
  """Change the samples per second of a sound; its start stays where it is.

    y[k] = sum_i x[i] h(k rate / wanted - i)

  with h a sinc, windowed by Kaiser's, for the lower of both rates.

  samples: [A], floats; rate, wanted: samples per second.

  Returns:
    ceil(A wanted / rate) samples, float32.
  """
  samples = np.asarray(samples)
  if rate == wanted or not len(samples):
    return samples.astype(np.float32)
  common = math.gcd(rate, wanted)
  down, up = rate // common, wanted // common
  cut = _PASSED * min(1.0, up / down)
  reach = math.ceil(_ZEROS / cut)
  count = -(-len(samples) * up // down)
  longer = max(1, reach // down)
  down, up = longer * down, longer * up
  out = np.empty((-(-count // up), up), np.float32)
  padded = np.pad(samples.astype(np.float64), (reach, 2 * (reach + down)))
  # Outputs of a phase lie `down` samples apart, and neighbouring phases see
  # almost the same samples: a matrix product for as many as span `reach`, which
  # `down` reaches too.
  together = max(1, reach * up // down)
  for first in range(0, up, together):
    phases = np.arange(first, min(first + together, up))
    start = first * down // up
    width = int(phases[-1]) * down // up - start + 2 * reach + 1
    offset = phases[:, None] * down / up + reach - (start + np.arange(width))
    inside = np.sqrt(np.clip(1 - (offset / reach) ** 2, 0, None))
    window = np.i0(_BETA * inside) / np.i0(_BETA) * (abs(offset) < reach)
    filters = cut * np.sinc(cut * offset) * window
    seen = np.lib.stride_tricks.sliding_window_view(padded[start:], width)
    out[:, phases] = seen[::down][: len(out)] @ filters.T
  return out.reshape(-1)[:count]
