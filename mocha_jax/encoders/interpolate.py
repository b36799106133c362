"""Linear interpolation of a sequence, from its first vector to its last."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def interpolate(
  x: Float[Array, "B S C"], count: int
) -> Float[Array, "B count C"]:
  """Return `count` vectors, evenly from the first to the last; fp32 inside.

    out[i] = x[p], p = i (S - 1) / (count - 1)

  with x between two whole numbers on the line between their vectors.
  """
  place = np.linspace(0, x.shape[1] - 1, count)
  below = np.floor(place).astype(np.int32)
  above = np.minimum(below + 1, x.shape[1] - 1)
  share = jnp.asarray((place - below)[:, None], jnp.float32)
  left, right = (x[:, i].astype(jnp.float32) for i in (below, above))
  return (left + share * (right - left)).astype(x.dtype)
