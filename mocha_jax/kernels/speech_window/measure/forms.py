"""The forms of speech-video window attention that are compared, as functions.

Of arrays alone, at the sizes of a shape, for one pass: "forward", or "both",
the output and all gradients from a given cotangent, so that nothing is dead
code. Tokens come as the model has them, a clip's frames after one another.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mocha_jax.kernels.speech_window import pallas_tpu, ref, shapes
from mocha_jax.kernels.speech_window.shapes import Shape

PASSES = ("forward", "both")


@dataclasses.dataclass(frozen=True)
class Form:
  """A way to compute it.

  forward: the output, of a shape and of the arrays that gradients are taken of.
  inputs: those arrays' sizes. flops: operations of a shape, both=... passes.
  """

  forward: Callable[..., Any]
  inputs: Callable[[Shape], tuple[Any, ...]]
  flops: Callable[..., int]


def build(form: Form, of: Shape, passes: str) -> tuple[Callable, tuple]:
  """Return a function and the sizes of its arguments."""
  forward = functools.partial(form.forward, of)
  inputs = form.inputs(of)
  if passes == "forward":
    return forward, inputs

  def both(cotangent, *inputs):
    out, pull = jax.vjp(forward, *inputs)
    return out, pull(cotangent)

  return both, (jax.eval_shape(forward, *inputs), *inputs)


def dtype(of: Shape) -> Any:
  """Return the type of all arrays."""
  return {2: jnp.bfloat16, 4: jnp.float32}[of.itemsize]


def _array(of: Shape, *size: int) -> Any:
  return jax.ShapeDtypeStruct(size, dtype(of))


def _video(of: Shape) -> tuple:
  return (_array(of, of.batch, of.frames * of.tokens, of.width),)


def _speech(of: Shape) -> tuple:
  inward = _array(of, of.width, of.heads, of.head)
  weights = ref.Weights(
    query=inward,
    key=inward,
    value=inward,
    out=_array(of, of.heads, of.head, of.width),
    key_norm=_array(of, of.head),
    slots=None,
  )
  return _array(of, of.batch, of.speech, of.width), weights


def _folded(of: Shape) -> tuple:
  size = (of.batch, of.frames, of.slots, of.heads, of.width)
  return _array(of, *size), _array(of, *size)


def _frames(of: Shape, x):
  return x.reshape(of.batch, of.frames, of.tokens, of.width)


def _mask(of: Shape):
  return jnp.asarray(of.geometry.windows(of.frames, of.speech)[1])


def _dense(of: Shape, x, speech, weights):
  y = ref.dense_window_attention(_frames(of, x), speech, weights, of.geometry)
  return y.reshape(x.shape)


def _gathered(of: Shape, x, speech, weights):
  y = ref.projected_window_attention(
    _frames(of, x), speech, weights, of.geometry
  )
  return y.reshape(x.shape)


def _fold(of: Shape, speech, weights):
  return ref.fold(speech, weights, of.geometry, of.frames)


def _collapsed(of: Shape, x, speech, weights):
  folded = _fold(of, speech, weights)
  y = ref.windowed_attention(_frames(of, x), *folded, _mask(of))
  return y.reshape(x.shape)


def _kernel(of: Shape, x, key, value):
  y = pallas_tpu.windowed_attention(_frames(of, x), key, value, _mask(of))
  return y.reshape(x.shape)


def _projected(of: Shape) -> tuple:
  return _video(of) + _speech(of)


# What XLA computes from projected speech.
XLA_FORMS = {
  "published_dense": Form(
    _dense, _projected, functools.partial(shapes.published_flops, dense=True)
  ),
  "published_gathered": Form(
    _gathered,
    _projected,
    functools.partial(shapes.published_flops, dense=False),
  ),
  "collapsed_xla": Form(
    _collapsed,
    _projected,
    lambda of, both: (
      shapes.collapsed_flops(of, both=both)
      + shapes.folding_flops(of, both=both)
    ),
  ),
}
KERNEL, FOLDING = "kernel", "folding"
FORMS = XLA_FORMS | {
  KERNEL: Form(
    _kernel, lambda of: _video(of) + _folded(of), shapes.collapsed_flops
  ),
  FOLDING: Form(_fold, _speech, shapes.folding_flops),
}
