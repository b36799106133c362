"""How close two results must be: all the tolerances of the tests stand here."""

import jax
import jax.numpy as jnp
import numpy as np

# Roundings that one element may gather besides those of its reduction.
ROUNDINGS = 8

# How far we may be from PyTorch: in float32, of the largest element wanted; in
# bfloat16, times as far from float32 as PyTorch itself.
PARITY = 1e-5
BFLOAT16_PARITY = 1.5

# How far a clip may be that another program samples from the same noise, of the
# largest element.
SAMPLED = 1e-4


def assert_close(got, want, dtype, reduced: int = 1) -> None:
  """Hold two pytrees equal up to the rounding of `dtype`.

  An element may be off by 8 eps sqrt(reduced) of the largest one wanted,
  where `reduced` is the number of terms that the longest sum runs over.
  """
  tolerance = ROUNDINGS * float(jnp.finfo(dtype).eps) * max(reduced, 1) ** 0.5

  def check(path, got, want):
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    largest = float(np.max(np.abs(want), initial=0.0))
    np.testing.assert_allclose(
      got,
      want,
      rtol=0,
      atol=tolerance * (largest or 1.0),
      err_msg=jax.tree_util.keystr(path),
    )

  jax.tree.map_with_path(check, got, want)


def assert_sampled_alike(got, want) -> None:
  """Hold two results of the same sampling equal: max|a-b| <= 1e-4 max|b|."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  np.testing.assert_allclose(
    got, want, rtol=0, atol=SAMPLED * np.abs(want).max()
  )


def assert_same(got, want) -> None:
  """Hold two pytrees equal bit by bit: structure, dtype, shape and values."""
  assert jax.tree.structure(got) == jax.tree.structure(want)

  def check(path, got, want):
    where = jax.tree_util.keystr(path)
    got, want = np.asarray(_data(got)), np.asarray(_data(want))
    assert got.dtype == want.dtype, f"{where}: {got.dtype} is not {want.dtype}"
    assert got.shape == want.shape, f"{where}: {got.shape} is not {want.shape}"
    # As bytes, since NaN is not equal to itself and -0.0 is equal to 0.0.
    if got.tobytes() != want.tobytes():
      wrong = int(np.sum(got != want))
      raise AssertionError(f"{where}: {wrong} of {got.size} elements differ")

  jax.tree.map_with_path(check, got, want)


def _data(leaf):
  """Take the words out of a typed key, which has no bytes of its own."""
  is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(
    leaf.dtype, jax.dtypes.prng_key
  )
  return jax.random.key_data(leaf) if is_key else leaf
