"""What a kernel asks of the platform that its program is compiled *for*.

That is known when the program is lowered, not when it is traced: a machine
without a TPU may compile for a pod of them.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_only_on_tpu = Primitive("only_on_tpu")


def only_on_tpu(x: jax.Array, refusal: str) -> jax.Array:
  """Return x, which has no derivative: an integer, or a mask.

  Raises:
    NotImplementedError: the refusal, when lowered for anything but TPUs.
  """
  return _only_on_tpu.bind(x, refusal=refusal)


def is_interpreted() -> bool:
  """Say whether Pallas kernels traced now are interpreted, and run anywhere.

  Pallas answers no such question, so see what becomes of a kernel.
  """
  from jax.experimental import pallas as pl

  nothing = jax.ShapeDtypeStruct((8, 128), jnp.float32)
  jaxpr = jax.make_jaxpr(pl.pallas_call(lambda _: None, out_shape=nothing))()
  return any(eqn.params.get("interpret") for eqn in jaxpr.eqns)


def _refuse(_, __, *, refusal: str):
  raise NotImplementedError(refusal)


_only_on_tpu.def_impl(jax.jit(only_on_tpu, static_argnums=1))
_only_on_tpu.def_abstract_eval(lambda x, refusal: x)
batching.defvectorized(_only_on_tpu)
mlir.register_lowering(_only_on_tpu, lambda _, x, refusal: [x], platform="tpu")
mlir.register_lowering(_only_on_tpu, _refuse)
