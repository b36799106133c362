"""Attention to folded speech as one TPU kernel a pass.

For a token x of latent frame f and every head n, over the slots j that hold a
speech token,

  s_jn = x·K'[f,j,n]     p_jn = softmax_j(s_jn)     out = sum_jn p_jn V'[f,j,n]

and backward, from the cotangent g of out,

  dp_jn = g·V'[f,j,n]     ds_jn = p_jn (dp_jn - sum_i p_in dp_in)
  dx = sum_jn ds_jn K'[f,j,n]     dK'[f,j,n] = sum_x ds_jn x
                                  dV'[f,j,n] = sum_x p_jn g

As matrices, for a block of P tokens and the R N rows of its frame, slot by
slot:

  s = K' x^T  [R N, P]    out = p^T V'  [P, D]    dp = V' g^T    dx = ds^T K'
  dK' += ds x  [R N, D]   dV' += p g

Tokens lie along the lanes, so the softmax runs over R slices of N rows, whole
tiles each, and takes the maximum of a head, not of a row. Scores and sums are
float32. The forward pass keeps p, R N numbers a token, which are cheaper to
read than s is to compute anew.

The norm before and the residual after, which would read and write all of x
again, may be part of it (`epsilon`, `residual`): with u = x / rms(x) in place
of x above,

  r = 1 / sqrt(mean_D x^2 + epsilon)    s = r K' x^T
  out = p^T V' + residual x             dK' += (r ds) x
  dx = (r ds)^T K' - (r^2 sum_jn ds_jn log p_jn / D) x + residual g

where sum ds s = sum ds log p, since ds sums to 0 over the slots.

Grid: (B, parts, visits), the last in order, see `tiling`: x, out, g, dx cross
to HBM once, and so do K', V', dK' and dV', but for one frame where a clip is
cut. Gradients are summed in the same order each time.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from mocha_jax.kernels.speech_window import tiling
from mocha_jax.kernels.speech_window.tiling import Tiling

# Tokens of a block in the backward pass, where sums of the size of K' are read
# and written once a block. Forward, blocks are as wide as the matrix unit:
# wider ones meet more frames, and the products of a visit are for one frame.
BLOCK = 256
# A masked score; finite, since a window may hold no token.
MASKED = -1e30
# The shape of a tile of float32.
TILE, LANES = 8, 128


class _Fused(NamedTuple):
  """What a kernel does besides, see `windowed_attention`."""

  epsilon: float | None
  residual: float


class _Visit:
  """Where the grid stands: a frame, and its tokens in the block."""

  def __init__(self, visits_ref, sizes: Tiling):
    part, visit = pl.program_id(1), pl.program_id(2)
    read = lambda row: visits_ref[row, part, visit]
    self.frame, self.block = read(tiling.FRAME), read(tiling.BLOCK)
    self.ours = read(tiling.OURS) == 1
    self.start = self.frame * sizes.tokens - self.block * sizes.block
    self.stop = self.start + sizes.tokens

  def own(self, rows: Array) -> Array:
    """Zero the tokens [*, P] that this visit sums up no gradients of."""
    token = jax.lax.broadcasted_iota(jnp.int32, (1, rows.shape[1]), 1)
    inside = (token >= self.start) & (token < self.stop) & self.ours
    return jnp.where(inside, rows, 0)

  def write(self, ref, new: Array, axis: int) -> None:
    """Write from the frame's first token on; earlier visits wrote the rest."""
    shape = [1] * ref.ndim
    shape[axis] = ref.shape[axis]
    token = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    old = ref[...].astype(new.dtype)
    ref[...] = jnp.where(token >= self.start, new, old).astype(ref.dtype)


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
  """Multiply matrices, summing over an axis of each."""
  axes = (((axis_a,), (axis_b,)), ((), ()))
  return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _read(ref, sizes: Tiling) -> Array:
  """Return the rows of a frame; those that only fill up tiles are zero."""
  if sizes.stride > sizes.heads:
    ref[:, sizes.heads :] = jnp.zeros_like(ref[:, sizes.heads :])
  return ref[...].reshape(sizes.rows, ref.shape[-1])


def _total(slots: list[Array]) -> Array:
  return functools.reduce(jnp.add, slots)


def _softmax(scores: Array, present: Array, slots: int) -> Array:
  """Normalise over the slots of which the bit in `present` is set."""
  biased = [
    score + jnp.where((present >> slot) & 1 == 1, 0.0, MASKED)
    for slot, score in enumerate(jnp.split(scores, slots))
  ]
  peak = functools.reduce(jnp.maximum, biased)
  weights = [jnp.exp(score - peak) for score in biased]
  scale = jnp.where(present == 0, 0.0, 1.0) / _total(weights)
  return jnp.concatenate([weight * scale for weight in weights])


def _softmax_grad(weights: Array, grad: Array, slots: int) -> Array:
  """Return ds from p and dp."""
  pairs = zip(jnp.split(weights, slots), jnp.split(grad, slots), strict=True)
  pairs = list(pairs)
  mean = _total([weight * grad for weight, grad in pairs])
  return jnp.concatenate([weight * (grad - mean) for weight, grad in pairs])


def _inverse_rms(x: Array, epsilon: float) -> Float[Array, "1 P"]:
  """Return 1 / rms of each token, along the lanes."""
  square = jnp.mean(x.astype(jnp.float32) ** 2, axis=1, keepdims=True)
  wide = jnp.broadcast_to(square, (x.shape[0], LANES))
  return jax.lax.rsqrt(jnp.transpose(wide)[:1] + epsilon)


def _column(row: Float[Array, "1 P"]) -> Float[Array, "P 1"]:
  wide = jnp.broadcast_to(row, (LANES, row.shape[1]))
  return jnp.transpose(wide)[:, :1]


def _zero_past_the_end(visit: _Visit, sizes: Tiling, *refs) -> None:
  """Zero the tokens after the clip's last, where anything may stand."""
  if not sizes.rest:
    return
  tile = 32 // refs[0].dtype.itemsize

  @pl.when(visit.block == sizes.length // sizes.block)
  def _():
    def zero(i, carry):
      rows = pl.ds(pl.multiple_of(i * tile, tile), tile)
      token = jax.lax.broadcasted_iota(jnp.int32, (tile, 1), 0) + i * tile
      for ref in refs:
        ref[rows] = jnp.where(token < sizes.rest, ref[rows], 0)
      return carry

    jax.lax.fori_loop(sizes.rest // tile, sizes.block // tile, zero, None)


def _forward_kernel(
  # Prefetched
  visits_ref,
  present_ref,
  # Inputs
  x_ref,
  key_ref,
  value_ref,
  # Outputs
  out_ref,
  weights_ref=None,
  *,
  sizes: Tiling,
  fused: _Fused,
):
  visit = _Visit(visits_ref, sizes)
  scores = _dot(_read(key_ref, sizes), x_ref[...], 1, 1)  # [R N, P]
  if fused.epsilon is not None:
    scores *= _inverse_rms(x_ref[...], fused.epsilon)
  weights = _softmax(scores, present_ref[visit.frame], sizes.slots)
  weights = weights.astype(x_ref.dtype)
  if weights_ref is not None:
    kept = weights.reshape(weights_ref.shape)
    visit.write(weights_ref, kept, axis=kept.ndim - 1)
  out = _dot(weights, _read(value_ref, sizes), 0, 0)
  if fused.residual:
    out += fused.residual * x_ref[...].astype(jnp.float32)
  visit.write(out_ref, out, axis=0)


def _backward_kernel(
  # Prefetched
  visits_ref,
  # Inputs
  x_ref,
  key_ref,
  value_ref,
  weights_ref,
  out_grad_ref,
  # Outputs
  x_grad_ref,
  key_grad_ref,
  value_grad_ref,
  # Scratch
  key_sum_ref,
  value_sum_ref,
  *,
  sizes: Tiling,
  fused: _Fused,
):
  visit = _Visit(visits_ref, sizes)
  _zero_past_the_end(visit, sizes, x_ref, out_grad_ref)
  dtype = x_ref.dtype
  weights = _read(weights_ref, sizes).astype(jnp.float32)  # [R N, P]
  weights_grad = _dot(_read(value_ref, sizes), out_grad_ref[...], 1, 1)
  scores_grad = _softmax_grad(weights, weights_grad, sizes.slots)
  if fused.epsilon is not None:
    scale = _inverse_rms(x_ref[...], fused.epsilon)
    radial = jnp.where(weights > 0, scores_grad * jnp.log(weights), 0)
    radial = jnp.sum(radial, axis=0, keepdims=True) * scale**2 / sizes.width
    scores_grad *= scale
  x_grad = _dot(scores_grad.astype(dtype), _read(key_ref, sizes), 0, 0)
  if fused.epsilon is not None:
    x_grad -= _column(radial) * x_ref[...].astype(jnp.float32)
  if fused.residual:
    x_grad += fused.residual * out_grad_ref[...].astype(jnp.float32)
  visit.write(x_grad_ref, x_grad, axis=0)

  @pl.when(visit.ours & (visit.start >= 0))
  def _():
    key_sum_ref[...] = jnp.zeros_like(key_sum_ref)
    value_sum_ref[...] = jnp.zeros_like(value_sum_ref)

  scores_grad, weights = visit.own(scores_grad), visit.own(weights)
  key_sum_ref[...] += _dot(scores_grad.astype(dtype), x_ref[...], 1, 0)
  value_sum_ref[...] += _dot(weights.astype(dtype), out_grad_ref[...], 1, 0)

  @pl.when(visit.ours & (visit.stop <= sizes.block))
  def _():
    for ref, total in (
      (key_grad_ref, key_sum_ref[...]),
      (value_grad_ref, value_sum_ref[...]),
    ):
      ref[...] = total.reshape(ref.shape).astype(ref.dtype)


def _specs(sizes: Tiling) -> tuple[pl.BlockSpec, ...]:
  """Return the blocks of x, of p, of K' and V', and of their gradients."""
  rows = sizes.split(sizes.stride)
  none = (0,) * len(rows)
  tokens = pl.BlockSpec(
    (None, sizes.block, sizes.width),
    lambda b, part, i, visits, *_: (b, visits[tiling.BLOCK, part, i], 0),
  )
  weights = pl.BlockSpec(
    (None, *rows, sizes.block),
    lambda b, part, i, visits, *_: (b, *none, visits[tiling.BLOCK, part, i]),
  )
  speech = lambda frame, buffers: pl.BlockSpec(
    (None, None, *rows, sizes.width),
    lambda b, part, i, visits, *_: (b, visits[frame, part, i], *none, 0),
    pipeline_mode=pl.Buffered(buffers),
  )
  return tokens, weights, speech(tiling.FRAME, 2), speech(tiling.OWNED, 1)


def _call(
  kernel, sizes: Tiling, prefetched, inputs, outputs, scratch=()
) -> Sequence[Array]:
  """Run a kernel from and to pairs of a block and an array, or its shape."""
  visits = sizes.visits()
  in_specs, arrays = zip(*inputs, strict=True)
  out_specs, shapes = zip(*outputs, strict=True)
  weights = sizes.batch * sizes.length * sizes.rows
  return pl.pallas_call(
    kernel,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1 + len(prefetched),
      grid=(sizes.batch, *visits.shape[1:]),
      in_specs=in_specs,
      out_specs=out_specs,
      scratch_shapes=scratch,
    ),
    out_shape=[jax.ShapeDtypeStruct(y.shape, y.dtype) for y in shapes],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=tiling.VMEM,
    ),
    cost_estimate=pl.CostEstimate(
      flops=(8 if scratch else 4) * weights * sizes.width,
      bytes_accessed=sum(
        math.prod(y.shape) * y.dtype.itemsize for y in (*arrays, *shapes)
      ),
      transcendentals=weights,
    ),
    name="speech_window_" + ("backward" if scratch else "forward"),
  )(visits, *prefetched, *arrays)


class Plan(NamedTuple):
  """How both passes are tiled."""

  forward: Tiling
  backward: Tiling


def plan(x: Float[Array, "B f hw D"], key: Float[Array, "B f R N D"]) -> Plan:
  """Tile both passes for the devices that are compiled for."""
  unit = tiling.matrix_unit(tiling.target())
  return Plan(Tiling.of(x, key, unit), Tiling.of(x, key, BLOCK))


def _forward(
  sizes: Tiling, fused: _Fused, inputs: Sequence[Array], *, keep: bool
) -> Sequence[Array]:
  """Return out and, if they are to be kept, the weights p."""
  x, key, value, present = inputs
  tokens, weights, speech, _ = _specs(sizes)
  kept = (x.shape[0], *key.shape[2:-1], x.shape[1])
  return _call(
    functools.partial(_forward_kernel, sizes=sizes, fused=fused),
    sizes,
    prefetched=[present],
    inputs=[(tokens, x), (speech, key), (speech, value)],
    outputs=[(tokens, x), (weights, jax.ShapeDtypeStruct(kept, x.dtype))][
      : 1 + keep
    ],
  )


def _backward(
  sizes: Tiling, fused: _Fused, inputs: Sequence[Array], out_grad: Array
) -> Sequence[Array]:
  """Return dx, dK' and dV'."""
  x, key, value, weights = inputs
  tokens, kept, speech, speech_grad = _specs(sizes)
  total = pltpu.VMEM((sizes.rows, sizes.width), jnp.float32)
  return _call(
    functools.partial(_backward_kernel, sizes=sizes, fused=fused),
    sizes,
    prefetched=[],
    inputs=[
      (tokens, x),
      (speech, key),
      (speech, value),
      (kept, weights),
      (tokens, out_grad),
    ],
    outputs=[(tokens, x), (speech_grad, key), (speech_grad, value)],
    scratch=[total, total],
  )


def _primal(tiles: Plan, fused: _Fused, *inputs: Array) -> Array:
  return _forward(tiles.forward, fused, inputs, keep=False)[0]


def _primal_and_kept(tiles: Plan, fused: _Fused, *inputs: Array):
  out, weights = _forward(tiles.forward, fused, inputs, keep=True)
  return out, (*inputs[:-1], weights)


def _cotangents(tiles: Plan, fused: _Fused, kept, out_grad):
  return *_backward(tiles.backward, fused, kept, out_grad), None


_attend = jax.custom_vjp(_primal, nondiff_argnums=(0, 1))
_attend.defvjp(_primal_and_kept, _cotangents)


def windowed_attention(
  x: Float[Array, "B f hw D"],
  key: Float[Array, "B f R N D"],
  value: Float[Array, "B f R N D"],
  mask: Bool[Array, "f R"],
  *,
  epsilon: float | None = None,
  residual: float = 0.0,
) -> Float[Array, "B f hw D"]:
  """Attend each video token to the folded speech of its frame, on one device.

  A token whose window holds no speech token gets 0. With epsilon, x is divided
  by its root mean square before; residual times x is added after. (A norm's
  scale belongs in K'. Where heads are split over n devices and their results
  added up, a residual of 1/n each makes 1.)

  Raises:
    NotImplementedError: not even eight heads of a frame have room in VMEM, or
      a window has more slots than a word has bits.
    ValueError: types differ.
  """
  types = {str(y.dtype) for y in (x, key, value)}
  if len(types) > 1:
    raise ValueError(
      f"x, key and value are {', '.join(sorted(types))}: must be of one type"
    )
  slots, heads = key.shape[2:4]
  if slots > 31:
    raise NotImplementedError(f"{slots} slots in a window: at most 31")
  fused, tiles = _Fused(epsilon, residual), plan(x, key)
  if not tiles.backward.fits(x.dtype.itemsize):
    return _by_halves(fused, x, key, value, mask)
  rows = tiles.forward.split(heads)
  slot = jnp.arange(slots, dtype=jnp.int32)
  out = _attend(
    tiles,
    fused,
    x.reshape(x.shape[0], -1, x.shape[-1]),
    *(y.reshape(*y.shape[:2], *rows, y.shape[-1]) for y in (key, value)),
    jnp.sum(mask.astype(jnp.int32) << slot, axis=1),
  )
  return out.reshape(x.shape)


def _by_halves(fused: _Fused, x, key, value, mask) -> Array:
  """Attend with half of the heads at a time, for want of room.

  Reads and writes x, out and their gradients once for each half.
  """
  slots, heads, width = key.shape[2:]
  if heads <= TILE:
    raise NotImplementedError(
      f"a block of {BLOCK} tokens and a window of {slots} slots x {heads} "
      f"heads, {width} wide, have no room in {tiling.VMEM:,} bytes"
    )
  cut = pl.cdiv(heads, 2 * TILE) * TILE
  attend = lambda some, residual: windowed_attention(
    x,
    key[:, :, :, some],
    value[:, :, :, some],
    mask,
    epsilon=fused.epsilon,
    residual=residual,
  )
  first = attend(slice(0, cut), fused.residual)
  return first + attend(slice(cut, heads), 0.0)
