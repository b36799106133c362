"""The door to attention between token sequences, and the layer around it.

  out = softmax(q k^T / sqrt(H)) v        the softmax in fp32

An implementation is "xla" (any platform), "splash" (jax's kernel for TPUs) or
"cudnn" (NVIDIA's GPUs); one that is asked for runs or is an error. None chooses
for the platform that is compiled for, which a mesh in scope tells: splash on
TPUs, cuDNN on GPUs where it takes the type and the heads, XLA elsewhere.

Under a mesh each device attends for its own clips and heads. Video tokens lie
apart, by frames, on the axis `context`; if its size divides the heads that a
device has, an all-to-all brings all tokens of some of them together (Ulysses,
arXiv 2309.14509), otherwise keys and values are gathered.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mocha_jax import sharding
from mocha_jax.kernels.platform import is_interpreted
from mocha_jax.models.layers import HeadNorm, WideNorm, weight
from mocha_jax.models.lora import Adapters, LoraConfig

Implementation = Literal["xla", "splash", "cudnn"]

# XLA's form holds the scores of all heads, 4 bytes each. Beyond so many of a
# head, 268 MB, it computes them for so many queries at a time: 12 heads of
# 32,760 tokens have 52 GB of scores, and 512 rows of them 0.8 GB.
_SCORES, _ROWS = 2**26, 512


def attend(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B S N H"],
  value: Float[Array, "B S N H"],
  mask: Bool[Array, "B S"] | None = None,
  *,
  implementation: Implementation | None,
  tokens: tuple[str, str],
  name: str,
) -> Float[Array, "B T N H"]:
  """Return softmax(query·key / sqrt(H)) @ value.

  mask: True on the tokens of the key that are there.
  tokens: the letters of T and S, by which they lie on a mesh.
  name: under which rematerialisation may save what the backward pass needs.

  Raises:
    NotImplementedError: the implementation does not run on the platform that
      this is compiled for, or does not take these arrays.
  """
  run = _on_a_device(implementation, query, name)
  if tokens == ("T", "T") and sharding.context_parts() > 1:
    run = _over_context(run)
  rows, columns = (f"B {letter} N H" for letter in tokens)
  arrays, inputs = [query, key, value], [rows, columns, columns]
  if mask is not None:
    arrays.append(mask)
    inputs.append(f"B {tokens[1]}")
  return sharding.shard_mapped(run, inputs, rows)(*arrays)


def _over_context(run: Callable[..., Array]) -> Callable[..., Array]:
  """Return attention where each device holds the tokens of some frames."""

  def over(query: Array, key: Array, value: Array) -> Array:
    if query.shape[2] % sharding.context_parts():
      return run(query, sharding.all_tokens(key), sharding.all_tokens(value))
    out = run(*map(sharding.tokens_for_heads, (query, key, value)))
    return sharding.heads_for_tokens(out)

  return over


def _on_a_device(
  asked: Implementation | None, query: Array, name: str
) -> Callable[..., Array]:
  """Return what a device runs on query, key, value and maybe a mask."""
  platform = _platform()
  choices = {
    "splash": functools.partial(_splash, name=name),
    "cudnn": _cudnn,
    "xla": functools.partial(_xla, name=name),
  }
  if asked is not None:
    _refuse_elsewhere(asked, platform)
    return choices[asked]
  if platform == "gpu":
    return choices["cudnn" if _cudnn_takes(query) else "xla"]
  if platform == "tpu":
    return choices["splash"]
  if platform is None and not is_interpreted():
    return functools.partial(_by_platform, name=name)
  return choices["xla"]


def _target() -> Any:
  """Return one like the devices compiled for: of the mesh, or the default."""
  mesh = jax.sharding.get_abstract_mesh()
  return jax.devices()[0] if mesh.empty else mesh.abstract_device


def _platform() -> str | None:
  """Return the platform compiled for, None if it will be seen when lowering.

  A machine with nothing but a CPU may compile for others.
  """
  platform = _target().platform
  unknown = jax.sharding.get_abstract_mesh().empty and platform == "cpu"
  return None if unknown else platform


def _refuse_elsewhere(asked: Implementation, platform: str | None) -> None:
  home = {"splash": "tpu", "cudnn": "gpu", "xla": platform}[asked]
  if platform in (None, home) or (asked == "splash" and is_interpreted()):
    return
  raise NotImplementedError(
    f"attention by {asked!r} runs on a {home.upper()}, but the program is "
    f"compiled for a {platform}: take 'xla', or None to choose by platform"
  )


def _by_platform(*arrays: Array, name: str) -> Array:
  # Whatever either keeps for its backward pass, both carry: XLA's form keeps
  # only what it was given.
  return jax.lax.platform_dependent(
    *arrays,
    tpu=functools.partial(_splash, name=name),
    default=jax.checkpoint(functools.partial(_xla, name=name)),
  )


def _xla(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  *,
  name: str,
) -> Array:
  if mask is not None:
    mask = mask[:, None, None, :]
  run = lambda query: jax.nn.dot_product_attention(query, key, value, mask=mask)
  if query.shape[1] * key.shape[1] > _SCORES:
    run = functools.partial(by_rows, run, rows=_ROWS)
  return checkpoint_name(run(query), name)


def by_rows(
  run: Callable[[Array], Array], query: Float[Array, "B T N H"], *, rows: int
) -> Float[Array, "B T N H"]:
  """Return run(query), of at most `rows` tokens at a time, one after another.

  For the backward pass it keeps queries and computes the rest again.
  """
  batch, tokens, heads, width = query.shape
  blocks = -(-tokens // rows)
  rows = -(-tokens // blocks)
  padding = [(0, 0), (0, blocks * rows - tokens), (0, 0), (0, 0)]
  parts = jnp.pad(query, padding).reshape(batch, blocks, rows, heads, width)
  out = jax.lax.map(jax.checkpoint(run), jnp.moveaxis(parts, 1, 0))
  out = jnp.moveaxis(out, 0, 1).reshape(batch, blocks * rows, heads, -1)
  return out[:, :tokens]


def _splash(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  *,
  name: str,
) -> Array:
  # Imported where it is traced, since Pallas is heavy.
  from mocha_jax.kernels import splash

  target = _target()
  kind = target.device_kind if target.platform == "tpu" else ""
  return splash.attend(query, key, value, mask, device_kind=kind, name=name)


def _cudnn(
  query: Array, key: Array, value: Array, mask: Array | None = None
) -> Array:
  tokens = query.shape[1]
  if mask is not None:
    # With a mask, its backward pass takes even numbers of tokens alone.
    query, key, value, mask = map(_even, (query, key, value, mask))
    mask = jnp.broadcast_to(
      mask[:, None, None, :], (mask.shape[0], 1, query.shape[1], mask.shape[1])
    )
  out = jax.nn.dot_product_attention(
    query, key, value, mask=mask, implementation="cudnn"
  )
  return out[:, :tokens]


def _even(x: Array) -> Array:
  """Add a token of zeros, or one that is not there, to an odd number."""
  return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2)) + ((0, 0),) * (x.ndim - 2))


def _cudnn_takes(query: Array) -> bool:
  """Say whether cuDNN takes the type and the heads, on any GPU."""
  head = query.shape[-1]
  return query.dtype.itemsize == 2 and head % 8 == 0 and head <= 128


def to_heads(
  x: Float[Array, "B T D"], kernel: Float[Array, "D N H"]
) -> Float[Array, "B T N H"]:
  """Project to heads, in the type of x."""
  return jnp.einsum("BTD,DNH->BTNH", x, kernel.astype(x.dtype))


def from_heads(
  x: Float[Array, "B T N H"], kernel: Float[Array, "N H D"]
) -> Float[Array, "B T D"]:
  """Project back from heads, in the type of x."""
  return jnp.einsum("BTNH,NHD->BTD", x, kernel.astype(x.dtype))


PROJECTIONS = {
  "query": "D N H",
  "key": "D N H",
  "value": "D N H",
  "out": "N H D",
}


class Attention(nnx.Module):
  """Multi-head attention of x to context (to itself without one).

  tokens: the letters of x's and of the context's tokens.
  names: under which the projections, the attention and the output may be saved
    for the backward pass.
  lora: of its projections.
  biased: whether projections have biases.
  wide_norm: whether queries and keys are normed over all heads together.
  """

  def __init__(
    self,
    sizes: dict[str, int],
    *,
    tokens: tuple[str, str],
    names: Sequence[str],
    implementation: Implementation | None,
    lora: LoraConfig,
    biased: bool = False,
    wide_norm: bool = False,
    rngs: nnx.Rngs,
  ):
    self.tokens, self.names = tokens, names
    self.implementation: Implementation | None = implementation
    self.query, self.key, self.value, self.out = (
      weight(rngs, letters, sizes) for letters in PROJECTIONS.values()
    )
    heads, head = sizes["N"], sizes["H"]
    self.biased = biased
    if biased:
      self.query_bias, self.key_bias, self.value_bias = (
        nnx.Param(jnp.zeros((heads, head)), letters="N H") for _ in range(3)
      )
      self.out_bias = nnx.Param(jnp.zeros(sizes["D"]), letters="D")
    self.query_norm, self.key_norm = (
      WideNorm(heads, head) if wide_norm else HeadNorm(head) for _ in range(2)
    )
    self.lora = Adapters(lora, sizes, PROJECTIONS, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    context: Float[Array, "B S D"] | None = None,
    mask: Bool[Array, "B S"] | None = None,
    *,
    turn: Callable[[Array], Array] | None = None,
  ) -> Float[Array, "B T D"]:
    """Return what x takes from the context.

    turn: of the queries and the keys [B T N H], by their places.
    """
    context = x if context is None else context
    projections, attention, output = self.names
    rows, columns = (f"B {letter} N H" for letter in self.tokens)

    def project(name, tokens, letters):
      y = self._with_bias(name, to_heads(tokens, getattr(self, name)[...]))
      y = sharding.constrain(self.lora.add(name, tokens, y), letters)
      return checkpoint_name(y, projections)

    query = self.query_norm(project("query", x, rows))
    key = self.key_norm(project("key", context, columns))
    if turn is not None:
      query, key = turn(query), turn(key)
    out = attend(
      *(query, key, project("value", context, columns)),
      mask,
      implementation=self.implementation,
      tokens=self.tokens,
      name=attention,
    )
    y = self.lora.add("out", out, from_heads(out, self.out[...]))
    return checkpoint_name(self._with_bias("out", y), output)

  def _with_bias(self, name: str, y: Array) -> Array:
    if not self.biased:
      return y
    return y + getattr(self, f"{name}_bias")[...].astype(y.dtype)
