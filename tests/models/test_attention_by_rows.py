"""Attention whose scores do not fit all at once."""

import jax
import jax.numpy as jnp
import pytest

from mocha_jax.models.attention import attend, by_rows
from tests import numerics
from tests.models.test_attention import VIDEO, arrays, gradients


@pytest.mark.parametrize("rows", [1, 5, 16, 99])
def test_queries_attend_alike_a_few_at_a_time(rows):
  given = arrays(2, 16, 6)
  whole = jax.nn.dot_product_attention
  in_parts = lambda q, k, v: by_rows(lambda q: whole(q, k, v), q, rows=rows)
  want = gradients(whole, given)(*given)
  got = gradients(in_parts, given)(*given)
  numerics.assert_close(got, want, jnp.float32, 64)


def test_scores_of_a_long_clip_never_lie_side_by_side():
  tokens, heads = 16_384, 2  # 2.1 GB of scores.
  x = jax.ShapeDtypeStruct((1, tokens, heads, 8), jnp.float32)
  attention = lambda q, k, v: attend(
    q, k, v, implementation="xla", tokens=VIDEO, name="attention"
  )
  memory = gradients(attention, (x, x, x)).memory_analysis()
  assert memory is not None
  assert memory.temp_size_in_bytes < tokens**2 * heads * 4 / 4
