"""Splash attention, jax's own kernel for TPUs: its blocks and its padding.

  out = softmax(q k^T / sqrt(H)) v

Every clip and head is a kernel of its own in a dimension of the grid that is
"parallel", so that the two cores of a chip that has two (v4, v5p) share the
backward pass as they share the forward one. The backward pass is one fused
kernel, five matrix products where two would need seven; it writes a part of the
queries' gradient per block of keys, in the type of the queries, and adds these
up.

Blocks are chosen by the generation compiled for, from the bundles that the
compiler counts (BUILD_NOTES.md). Sequences that no block divides are padded,
queries with rows that are cut off again, keys with ones that are masked.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
from jaxtyping import Array, Bool, Float

LANES = 128


@dataclasses.dataclass(frozen=True)
class Blocks:
  """The largest blocks, in tokens, of one generation and width of heads.

  query, key: forward; query_back, key_back: backward. Each step of a grid goes
  over `compute`, or `compute_back`, of its keys at a time.
  """

  query: int = 1024
  key: int = 2048
  compute: int = 1024
  query_back: int = 1024
  key_back: int = 2048
  compute_back: int = 512


# By how `device_kind` begins and the widest head; the first that fits is taken.
BLOCKS = (
  ("TPU v6", 256, Blocks()),
  ("TPU7", 256, Blocks()),
  ("TPU v", 128, Blocks()),
  ("", 512, Blocks(key_back=1024)),
)


def blocks(device_kind: str, head: int) -> Blocks:
  """Return the blocks for heads so wide on a device of this kind.

  Raises:
    NotImplementedError: heads wider than any that were tried.
  """
  for kind, widest, found in BLOCKS:
    if device_kind.startswith(kind) and head <= widest:
      return found
  raise NotImplementedError(
    f"heads of {head}: splash attention was tried up to {BLOCKS[-1][1]}; take "
    "implementation='xla'"
  )


def padded(tokens: int, largest: int) -> tuple[int, int]:
  """Return the length that a sequence is padded to, and its block.

  One block if that is enough; else the largest that pads by a sixteenth at
  most, or else the smallest.
  """
  whole = _round_up(tokens, LANES)
  if whole <= largest:
    return whole, whole
  block = largest
  while block > LANES and _round_up(tokens, block) > tokens * 17 / 16:
    block //= 2
  return _round_up(tokens, block), block


def cost(tokens: int, head: int, device_kind: str) -> float:
  """Return the work of self-attention over so many tokens by its mathematics.

  1 where blocks divide the tokens, as 65,536, 32 latent frames of 2,048; 1.019
  for 66,429, which is 33 of 2,013. Masking, then done in every block, comes on
  top.
  """
  sizes = blocks(device_kind, head)
  queries, _ = padded(tokens, sizes.query)
  keys, _ = padded(tokens, sizes.key)
  return queries * keys / tokens**2


def attend(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B S N H"],
  value: Float[Array, "B S N H"],
  mask: Bool[Array, "B S"] | None,
  *,
  device_kind: str,
  name: str,
) -> Float[Array, "B T N H"]:
  """Attend on one device; what a gradient needs is saved under the name.

  Raises:
    NotImplementedError: heads wider than any that were tried.
  """
  tokens, head = query.shape[1], query.shape[3]
  limits = blocks(device_kind, head)
  if query.dtype.itemsize > 2:
    halves = {k: n // 2 for k, n in dataclasses.asdict(limits).items()}
    limits = Blocks(**halves)  # So that they take as much of the memory.
  queries, query_block = padded(tokens, limits.query)
  keys, key_block = padded(key.shape[1], limits.key)
  if mask is None and keys != key.shape[1]:
    # As ids, which take less of a core's memory than a block of a mask.
    mask = jnp.ones(key.shape[:2], jnp.bool_)
  attention = kernel.make_splash_mha(
    masks.MultiHeadMask([masks.FullMask((queries, keys))]),
    block_sizes=_sizes(limits, query_block, key_block),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name=name,
  )

  def one_head(query, key, value, ids):
    return attention(query[None], key[None], value[None], ids)[0]

  over_heads = jax.vmap(one_head, in_axes=(0, 0, 0, None))
  ids = None if mask is None else _segments(mask, queries, keys)
  out = jax.vmap(over_heads, in_axes=(0, 0, 0, None if mask is None else 0))(
    _to_rows(_scaled(query), queries),
    _to_rows(key, keys),
    _to_rows(value, keys),
    ids,
  )
  return out[:, :, :tokens].swapaxes(1, 2)


def _round_up(tokens: int, block: int) -> int:
  return -(-tokens // block) * block


def _scaled(query: Float[Array, "B T N H"]) -> Float[Array, "B T N H"]:
  """Return q / sqrt(H), rounded once: the kernel does not scale."""
  scale = 1 / math.sqrt(query.shape[-1])
  return (query.astype(jnp.float32) * scale).astype(query.dtype)


def _to_rows(
  x: Float[Array, "B S N H"], length: int
) -> Float[Array, "B N L H"]:
  """Bring the tokens of each head together, and zeros behind them."""
  short = length - x.shape[1]
  return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, short), (0, 0)))


def _segments(
  mask: Bool[Array, "B S"], queries: int, keys: int
) -> kernel.SegmentIds:
  """Return ids by which a query sees those keys that the mask has."""
  short = keys - mask.shape[1]
  return kernel.SegmentIds(
    q=jnp.ones((mask.shape[0], queries), jnp.int32),
    kv=jnp.pad(mask.astype(jnp.int32), ((0, 0), (0, short))),
  )


def _sizes(limits: Blocks, query: int, key: int) -> kernel.BlockSizes:
  """Return the kernel's sizes, each a divisor of the padded lengths' blocks."""
  key_back = _divisor(key, limits.key_back)
  return kernel.BlockSizes(
    block_q=query,
    block_kv=key,
    block_kv_compute=_divisor(key, limits.compute),
    block_q_dkv=_divisor(query, limits.query_back),
    block_kv_dkv=key_back,
    block_kv_dkv_compute=_divisor(key_back, limits.compute_back),
    use_fused_bwd_kernel=True,
  )


def _divisor(block: int, largest: int) -> int:
  """Return the largest whole number of lanes that divides a block."""
  count = block // LANES
  return LANES * max(
    n for n in range(1, count + 1) if count % n == 0 and n * LANES <= largest
  )
