"""Encoders whose weights come from a file and stay as they are.

An encoder is made without its files, so that its sizes are known anywhere; it
reads them when it is first used, straight to where they lie on the devices,
and forgets them on `release`. It can be sent to another process.
"""

import functools
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from mocha_jax import sharding
from mocha_jax.encoders import tokenizers
from mocha_jax.network import Network, nested, paths


class Frozen:
  """A network of a config, with weights from `config.weights`.

  Which one, `build` says; `table`, how its parameters are called in a file that
  holds tensors of some names: entries, and names to be ignored; and `settings`,
  what a config.json beside that file must say.
  """

  def __init__(self, config: Any):
    self.config = config

  def __reduce__(self):
    return type(self), (self.config,)

  def build(self, rngs: nnx.Rngs) -> nnx.Module:
    """Make the module."""
    raise NotImplementedError

  def table(self, names: Collection[str]) -> tuple[list[Any], Sequence[str]]:
    """Return the table of names for a file that holds these."""
    raise NotImplementedError

  def settings(self) -> Any:
    """Return the `weights.transformers_settings` that it computes by."""
    raise NotImplementedError

  @functools.cached_property
  def network(self) -> Network:
    """The structure."""
    return Network(self.build)

  @functools.cached_property
  def mesh(self) -> jax.sharding.Mesh:
    """The devices of this process; weights and batches are split over all."""
    return sharding.make_mesh(
      sharding.MeshConfig(1, -1, 1, 1, 1), jax.local_devices()
    )

  def check_files(self) -> None:
    """Find out what is wrong with the files before anything is computed.

    Raises:
      ValueError: there are none, or they are of another network; all settings
        that do not fit are listed, or else all tensors.
    """
    self.open_files()

  def open_files(self) -> tuple[Any, Any]:
    """Return where each parameter comes from, and what is to be read.

    Raises:
      ValueError: as `check_files`.
    """
    from mocha_jax.weights import files, misfits, tables

    if not self.config.weights:
      raise ValueError(
        f"the encoder {self.config.name!r} needs its weights: set `weights` to"
        " a .safetensors file, PyTorch's .bin or .pth, or a folder with either"
      )
    path = pathlib.Path(self.config.weights)
    try:
      tensors = files.open_tensors(path)
      self.settings().check(path)
      entries, ignored = self.table(tensors)
      shapes, letters = self.network.shapes, self.network.letters
      with misfits.of(path):
        plan = tables.plan(entries, shapes, letters, tensors, ignored=ignored)
    except (OSError, ValueError) as error:
      raise ValueError(
        f"weights of the encoder {self.config.name!r}: {error}"
      ) from error
    return plan, tensors

  @functools.cached_property
  def params(self) -> Any:
    """The parameters, in the type of the config, on the devices."""
    from mocha_jax.weights import misfits

    plan, tensors = self.open_files()
    dtype = jax.numpy.dtype(self.config.dtype)
    flat = {}
    places = paths(self.network.shardings(self.mesh))
    for path, leaf in plan.leaves.items():
      read = lambda index, leaf=leaf: leaf.read_ours(tensors, index, dtype)
      with misfits.of(self.config.weights):
        flat[path] = jax.make_array_from_callback(
          leaf.shape, places[path], read
        )
    return nested(flat)

  def release(self) -> None:
    """Free the memory of the weights; the next use reads them again."""
    self.__dict__.pop("params", None)

  def in_batches(
    self, call: Callable[..., Any], *inputs: np.ndarray
  ) -> Float32[np.ndarray, "B L E"]:
    """Return call(params, *inputs), a batch of a fixed size at a time."""
    shards = sharding.batch_shards(self.mesh)
    size = -(-self.config.batch_size // shards) * shards
    count, outputs = len(inputs[0]), []
    for start in range(0, count, size):
      chosen = np.minimum(np.arange(start, start + size), count - 1)
      batch = [sharding.place(x[chosen], self.mesh) for x in inputs]
      outputs.append(np.asarray(call(self.params, *batch), np.float32))
    return np.concatenate(outputs)[:count]


class FrozenText(Frozen):
  """Turns prompts into features of their tokens, zeros where there are none.

  Its section holds, beside name and sizes:

  weights: path of the weights, as `weights.files.open_tensors` takes it.
  tokenizer: path of a tokenizer.json, or "bytes" (ByT5).
  length: tokens that every prompt is padded to.
  cut: whether what a longer prompt has beyond that is left out; else it is
    refused.
  dtype: of weights and computation. batch_size: prompts encoded at once.
  """

  @property
  def width(self) -> int:
    """Width of a token's features."""
    return self.config.sizes.width

  @property
  def length(self) -> int:
    """Tokens that every prompt is padded to, L."""
    return self.config.length

  @functools.cached_property
  def _tokenizer(self) -> tokenizers.Tokenizer:
    return tokenizers.open_tokenizer(
      self.config.tokenizer, self.config.sizes.vocabulary
    )

  def check_files(self) -> None:
    """Find out what is wrong with weights and tokenizer; see Frozen."""
    self.tokens("")
    super().check_files()

  def tokens(
    self, prompt: str
  ) -> tuple[Int32[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
    """Return ids and a mask that is True on tokens; ValueError if too many."""
    found = self._tokenizer(prompt)
    if len(found) > self.length and self.config.cut:
      found = [*found[: self.length - 1], found[-1]]  # The end stays.
    if len(found) > self.length:
      raise ValueError(
        f"a prompt has {len(found)} tokens of {self.config.name}, the end"
        f" included, and the limit is {self.length}: {prompt[:60]!r}…"
      )
    ids = np.zeros(self.length, np.int32)
    ids[: len(found)] = found
    return ids, np.arange(self.length) < len(found)

  def __call__(
    self, prompt: str
  ) -> tuple[Float32[np.ndarray, "L E"], Bool[np.ndarray, "L"]]:
    """Encode a prompt; ValueError if it is too long."""
    features, masks = self.many([prompt])
    return features[0], masks[0]

  def many(
    self, prompts: Sequence[str]
  ) -> tuple[Float32[np.ndarray, "B L E"], Bool[np.ndarray, "B L"]]:
    """Encode several, each as if it stood alone."""
    ids, masks = map(np.stack, zip(*map(self.tokens, prompts), strict=True))
    return self.in_batches(self._encode, ids, masks), masks

  def features(
    self, params: Any, ids: Int[Array, "B L"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L E"]:
    """Return features of tokens, zeros where there are none."""
    model: Any = self.network.bind(params)
    return model(ids, mask) * mask[..., None]

  @functools.cached_property
  def _encode(self):
    return jax.jit(self.features)
