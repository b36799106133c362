"""Which of two functions runs: settled by the platform compiled *for*.

`jax.lax.platform_dependent` chooses likewise, but when a program is exported
for several platforms at once it lowers each branch for all of them, which a
kernel of one platform refuses, and its branches may have no effects, as
interpreted kernels do. Here the choice is a lowering rule, and what is not
chosen is never lowered.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_by_platform = Primitive("by_platform")
_by_platform.multiple_results = True


def by_platform(
  *args: Any, tpu: Callable, other: Callable, refusal: str | None = None
) -> Any:
  """Return tpu(*args) where compiled for TPUs, other(*args) elsewhere.

  Both take arrays and return a tuple of arrays, the same shapes and types.
  It has no derivative of its own: define one around it. With a refusal,
  `other` gives shapes and types alone.

  Raises:
    NotImplementedError: the refusal, when compiled for anything but TPUs.
  """
  out = _by_platform.bind(*args, tpu=tpu, other=other, refusal=refusal)
  return tuple(out)


def is_interpreted() -> bool:
  """Say whether Pallas kernels traced now are interpreted, and run anywhere.

  Pallas answers no such question, so see what becomes of a kernel.
  """
  from jax.experimental import pallas as pl

  nothing = jax.ShapeDtypeStruct((8, 128), jnp.float32)
  jaxpr = jax.make_jaxpr(pl.pallas_call(lambda _: None, out_shape=nothing))()
  return any(eqn.params.get("interpret") for eqn in jaxpr.eqns)


@_by_platform.def_impl
def _run(*args, **chosen):
  return jax.jit(functools.partial(_by_platform.bind, **chosen))(*args)


@_by_platform.def_abstract_eval
def _shapes(*args, tpu, other, refusal):
  del tpu, refusal
  return jax.make_jaxpr(other)(*args).out_avals


def _on_tpu(*args, tpu, other, refusal):
  del other, refusal
  return tpu(*args)


def _elsewhere(*args, tpu, other, refusal):
  del tpu
  if refusal is not None:
    raise NotImplementedError(refusal)
  return other(*args)


def _batched(args, axes, *, tpu, other, refusal):
  mapped = functools.partial(jax.vmap, in_axes=tuple(axes))
  out = _by_platform.bind(
    *args, tpu=mapped(tpu), other=mapped(other), refusal=refusal
  )
  return out, [0] * len(out)


mlir.register_lowering(
  _by_platform, mlir.lower_fun(_on_tpu, multiple_results=True), platform="tpu"
)
mlir.register_lowering(
  _by_platform, mlir.lower_fun(_elsewhere, multiple_results=True)
)
batching.primitive_batchers[_by_platform] = _batched
