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

Grid: (B, parts, visits), the last in order, see `walk`: x, out, g and dx cross
to HBM once, and so do K', V', dK' and dV', but for one frame where a clip is
cut. Gradients are summed in the same order each time.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from mocha_jax.kernels.speech_window import walk

# Tokens of a block: the width of the widest matrix unit. Wider blocks meet
# more frames, and the products of a visit are for one frame.
BLOCK = 256
# VMEM of a core: 64 MiB on v5p and tpu7x, 128 on v5e and v6e. The compiler
# keeps some to itself.
VMEM = 64 * 2**20 - 2**19
# A masked score; finite, since a window may hold no token.
MASKED = -1e30
LANES = 128


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """What a kernel is built for.

  stride: rows from slot to slot, N heads and what fills up their last tile.
  epsilon, residual: see `windowed_attention`.
  """

  batch: int
  walk: walk.Walk
  width: int
  slots: int
  heads: int
  stride: int
  epsilon: float | None
  residual: float

  @classmethod
  def of(cls, x: Array, key: Array, **options) -> "_Sizes":
    """Read the sizes off [B f hw D] and [B f R N D]."""
    batch, frames, tokens, width = x.shape
    slots, heads = key.shape[2:4]
    tile = 8 if heads % 8 == 0 else 32 // x.dtype.itemsize
    stride = pl.cdiv(heads, tile) * tile
    block = min(BLOCK, frames * tokens)
    # Two cores may as well take a clip each.
    parts = 1 if batch % 2 == 0 else min(2, frames)
    path = walk.Walk(frames, tokens, block, parts)
    return cls(batch, path, width, slots, heads, stride, **options)

  @property
  def rows(self) -> int:
    """Rows of a frame's K', with what fills up tiles."""
    return self.slots * self.stride

  def split(self, heads: int) -> tuple[int, ...]:
    """Return the axes R N as a kernel sees them: one, where that is free."""
    if self.stride == self.heads:
      return (self.rows,)
    return self.slots, heads

  @property
  def tokens(self) -> tuple[int, ...]:
    """Shape of x and out, as a kernel sees them."""
    return self.batch, self.walk.length, self.width

  @property
  def weights(self) -> tuple[int, ...]:
    """Shape of the weights p."""
    return self.batch, *self.split(self.heads), self.walk.length

  @property
  def speech(self) -> tuple[int, ...]:
    """Shape of K' and V'."""
    return self.batch, self.walk.frames, *self.split(self.heads), self.width

  def fit(self, itemsize: int) -> bool:
    """Say whether what the backward pass holds has room in VMEM."""
    block, frame = self.walk.block * self.width, self.rows * self.width
    # x, g and dx, K', V', dK' and dV', each twice: one is used, one is moved.
    # And the float32 sums of the last two.
    return 2 * itemsize * (3 * block + 4 * frame) + 8 * frame < 0.95 * VMEM


class _Visit:
  """Where the grid stands: a frame, and its tokens in the block."""

  def __init__(self, visits_ref, sizes: _Sizes):
    part, visit = pl.program_id(1), pl.program_id(2)
    read = lambda row: visits_ref[row, part, visit]
    self.frame, self.block = read(walk.FRAME), read(walk.BLOCK)
    self.ours = read(walk.OURS) == 1
    self.start = self.frame * sizes.walk.tokens - self.block * sizes.walk.block
    self.stop = self.start + sizes.walk.tokens

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


def _read(ref, sizes: _Sizes) -> Array:
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


def _zero_past_the_end(visit: _Visit, sizes: _Sizes, *refs) -> None:
  """Zero the tokens after the clip's last, where anything may stand."""
  rest = sizes.walk.length % sizes.walk.block
  if not rest:
    return
  tile = 32 // refs[0].dtype.itemsize

  @pl.when(visit.block == sizes.walk.length // sizes.walk.block)
  def _():
    def zero(i, carry):
      rows = pl.ds(pl.multiple_of(i * tile, tile), tile)
      token = jax.lax.broadcasted_iota(jnp.int32, (tile, 1), 0) + i * tile
      for ref in refs:
        ref[rows] = jnp.where(token < rest, ref[rows], 0)
      return carry

    jax.lax.fori_loop(rest // tile, sizes.walk.block // tile, zero, None)


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
  sizes: _Sizes,
):
  visit = _Visit(visits_ref, sizes)
  scores = _dot(_read(key_ref, sizes), x_ref[...], 1, 1)  # [R N, P]
  if sizes.epsilon is not None:
    scores *= _inverse_rms(x_ref[...], sizes.epsilon)
  weights = _softmax(scores, present_ref[visit.frame], sizes.slots)
  weights = weights.astype(x_ref.dtype)
  if weights_ref is not None:
    kept = weights.reshape(weights_ref.shape)
    visit.write(weights_ref, kept, axis=kept.ndim - 1)
  out = _dot(weights, _read(value_ref, sizes), 0, 0)
  if sizes.residual:
    out += sizes.residual * x_ref[...].astype(jnp.float32)
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
  sizes: _Sizes,
):
  visit = _Visit(visits_ref, sizes)
  _zero_past_the_end(visit, sizes, x_ref, out_grad_ref)
  dtype = x_ref.dtype
  weights = _read(weights_ref, sizes).astype(jnp.float32)  # [R N, P]
  weights_grad = _dot(_read(value_ref, sizes), out_grad_ref[...], 1, 1)
  scores_grad = _softmax_grad(weights, weights_grad, sizes.slots)
  rest = 0.0
  if sizes.epsilon is not None:
    scale = _inverse_rms(x_ref[...], sizes.epsilon)
    radial = jnp.where(weights > 0, scores_grad * jnp.log(weights), 0)
    radial = jnp.sum(radial, axis=0, keepdims=True) * scale**2 / sizes.width
    rest -= _column(radial) * x_ref[...].astype(jnp.float32)
    scores_grad *= scale
  if sizes.residual:
    rest += sizes.residual * out_grad_ref[...].astype(jnp.float32)
  x_grad = _dot(scores_grad.astype(dtype), _read(key_ref, sizes), 0, 0)
  visit.write(x_grad_ref, x_grad + rest, axis=0)

  @pl.when(visit.ours & (visit.start >= 0))
  def _():
    key_sum_ref[...] = jnp.zeros_like(key_sum_ref)
    value_sum_ref[...] = jnp.zeros_like(value_sum_ref)

  scores_grad, weights = visit.own(scores_grad), visit.own(weights)
  key_sum_ref[...] += _dot(scores_grad.astype(dtype), x_ref[...], 1, 0)
  value_sum_ref[...] += _dot(weights.astype(dtype), out_grad_ref[...], 1, 0)

  @pl.when(visit.ours & (visit.stop <= sizes.walk.block))
  def _():
    for ref, total in (
      (key_grad_ref, key_sum_ref[...]),
      (value_grad_ref, value_sum_ref[...]),
    ):
      ref[...] = total.reshape(ref.shape).astype(ref.dtype)


def _specs(sizes: _Sizes) -> tuple[pl.BlockSpec, ...]:
  """Return the blocks of x, of p, of K' and V', and of their gradients."""
  rows = sizes.split(sizes.stride)
  none = (0,) * len(rows)
  tokens = pl.BlockSpec(
    (None, sizes.walk.block, sizes.width),
    lambda b, part, i, visits, *_: (b, visits[walk.BLOCK, part, i], 0),
  )
  weights = pl.BlockSpec(
    (None, *rows, sizes.walk.block),
    lambda b, part, i, visits, *_: (b, *none, visits[walk.BLOCK, part, i]),
  )
  speech = lambda frame: pl.BlockSpec(
    (None, None, *rows, sizes.width),
    lambda b, part, i, visits, *_: (b, visits[frame, part, i], *none, 0),
  )
  return tokens, weights, speech(walk.FRAME), speech(walk.OWNED)


def _call(kernel, sizes: _Sizes, prefetched: list, inputs, outputs, scratch=()):
  """Run a kernel on pairs of block and array, to pairs of block and shape."""
  visits = sizes.walk.visits()
  in_specs, arrays = zip(*inputs, strict=True)
  out_specs, shapes = zip(*outputs, strict=True)
  dtype = arrays[0].dtype
  weights = sizes.batch * sizes.walk.length * sizes.rows
  products = 4 if scratch else 2
  return pl.pallas_call(
    functools.partial(kernel, sizes=sizes),
    name=f"speech_window{kernel.__name__}",
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1 + len(prefetched),
      grid=(sizes.batch, *visits.shape[1:]),
      in_specs=in_specs,
      out_specs=out_specs,
      scratch_shapes=scratch,
    ),
    out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape in shapes],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=VMEM,
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * products * weights * sizes.width,
      bytes_accessed=sum(map(math.prod, shapes)) * dtype.itemsize
      + sum(array.nbytes for array in arrays),
      transcendentals=weights,
    ),
  )(visits, *prefetched, *arrays)


def _forward(sizes: _Sizes, keep: bool, x, key, value, mask):
  """Return out and, if they are to be kept, the weights p."""
  tokens, weights, speech, _ = _specs(sizes)
  slot = jnp.arange(sizes.slots, dtype=jnp.int32)
  return _call(
    _forward_kernel,
    sizes,
    prefetched=[jnp.sum(mask.astype(jnp.int32) << slot, axis=1)],
    inputs=[
      (tokens, x.reshape(sizes.tokens)),
      (speech, key.reshape(sizes.speech)),
      (speech, value.reshape(sizes.speech)),
    ],
    outputs=[(tokens, sizes.tokens), (weights, sizes.weights)][: 1 + keep],
  )


def _backward(sizes: _Sizes, x, key, value, weights, out_grad):
  """Return dx, dK' and dV'."""
  tokens, kept, speech, speech_grad = _specs(sizes)
  return _call(
    _backward_kernel,
    sizes,
    prefetched=[],
    inputs=[
      (tokens, x.reshape(sizes.tokens)),
      (speech, key.reshape(sizes.speech)),
      (speech, value.reshape(sizes.speech)),
      (kept, weights),
      (tokens, out_grad.reshape(sizes.tokens)),
    ],
    outputs=[
      (tokens, sizes.tokens),
      (speech_grad, sizes.speech),
      (speech_grad, sizes.speech),
    ],
    scratch=[pltpu.VMEM((sizes.rows, sizes.width), jnp.float32)] * 2,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(sizes: _Sizes, x, key, value, mask):
  return _forward(sizes, False, x, key, value, mask)[0].reshape(x.shape)


def _attend_forward(sizes: _Sizes, x, key, value, mask):
  out, weights = _forward(sizes, True, x, key, value, mask)
  return out.reshape(x.shape), (x, key, value, weights)


def _attend_backward(sizes: _Sizes, kept, out_grad):
  x, key, value, weights = kept
  grads = _backward(sizes, x, key, value, weights, out_grad)
  grads = (
    grad.reshape(y.shape) for grad, y in zip(grads, kept[:3], strict=True)
  )
  return *grads, None


_attend.defvjp(_attend_forward, _attend_backward)


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

  What has no room in fast memory is done by halves of the heads, which reads
  and writes x and out more than once.

  Raises:
    NotImplementedError: not even one head of a frame has room, or its window
      has more slots than the bits of a word.
    ValueError: types differ.
  """
  types = {str(y.dtype) for y in (x, key, value)}
  if len(types) > 1:
    raise ValueError(
      f"x, key and value have types {', '.join(sorted(types))}: must be one"
    )
  sizes = _Sizes.of(x, key, epsilon=epsilon, residual=residual)
  if sizes.slots > 31:
    raise NotImplementedError(f"{sizes.slots} slots a window: at most 31")
  if sizes.fit(x.dtype.itemsize):
    return _attend(sizes, x, key, value, mask)
  if sizes.heads == 1:
    raise NotImplementedError(
      f"a block of {sizes.walk.block} tokens and a window of {sizes.slots} "
      f"slots, {sizes.width} wide, have no room in {VMEM / 2**20} MiB"
    )
  # Cut the heads in two, at a tile if there are so many.
  middle = pl.cdiv(sizes.heads, 16) * 8 if sizes.heads > 8 else sizes.heads // 2
  first, second = (
    windowed_attention(
      x,
      key[:, :, :, heads],
      value[:, :, :, heads],
      mask,
      epsilon=epsilon,
      residual=weight,
    )
    for heads, weight in (
      (slice(None, middle), residual),
      (slice(middle, None), 0.0),
    )
  )
  return first + second
