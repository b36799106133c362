"""How close we must be to PyTorch: in float32, and in bfloat16."""

import jax
import numpy as np

from tests import numerics


def to_numpy(tensor) -> np.ndarray:
  """Return an array of JAX or a tensor of PyTorch as float64."""
  if hasattr(tensor, "detach"):
    tensor = tensor.detach().double().cpu().numpy()
  return np.asarray(tensor, np.float64)


def assert_parity(ours, theirs) -> None:
  """Hold float32 results, or trees of them, equal: max|a-b| <= 1e-5 max|b|."""

  def check(path, a, b):
    error, largest = _error(a, b), np.abs(to_numpy(b)).max(initial=0.0)
    assert error <= numerics.PARITY * largest, (
      f"{jax.tree_util.keystr(path)} off by {error:.3g}, which is "
      f"{error / (largest or 1):.3g} of the largest, {largest:.3g}"
    )

  jax.tree.map_with_path(check, ours, theirs)


def assert_bfloat16_parity(ours, theirs, exact) -> None:
  """Hold our error in bfloat16 to at most 1.5 times that of PyTorch.

  exact: their result in float32. Errors are root mean squares.
  """

  def check(path, a, b, c):
    ours, theirs = _rms(a, c), _rms(b, c)
    assert ours <= numerics.BFLOAT16_PARITY * theirs, (
      f"{jax.tree_util.keystr(path)} off by {ours:.3g}, PyTorch's by "
      f"{theirs:.3g}: {ours / (theirs or 1):.3g} times as much"
    )

  jax.tree.map_with_path(check, ours, theirs, exact)


def _error(a, b) -> float:
  a, b = to_numpy(a), to_numpy(b)
  assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
  return float(np.abs(a - b).max(initial=0.0))


def _rms(a, b) -> float:
  a, b = to_numpy(a), to_numpy(b)
  assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
  return float(np.sqrt(np.mean((a - b) ** 2)))
