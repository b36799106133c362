import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mocha_jax.models import layers


@pytest.mark.parametrize(
  ("dtype", "precision"),
  [("float32", jax.lax.Precision.HIGHEST), ("bfloat16", None)],
)
def test_products_of_float32_are_not_rounded(dtype, precision):
  linear = layers.Linear(dict(D=2, E=3), "D E", rngs=nnx.Rngs(0))
  traced = jax.make_jaxpr(linear)(jnp.ones((4, 2), dtype))
  (product,) = (x for x in traced.eqns if x.primitive.name == "dot_general")
  asked = product.params["precision"]
  assert asked == (precision and (precision, precision))
