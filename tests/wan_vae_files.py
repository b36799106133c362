"""A VAE of Wan2.1's kind, small and untrained, and files of its weights."""

import pathlib
from typing import Any

import jax
import numpy as np

from mocha_jax.codecs.wan_network import WanNetwork
from mocha_jax.codecs.wan_vae import WanVAEConfig
from mocha_jax.network import Network, paths
from mocha_jax.weights import files, tables, wan_vae

WIDTH = 4
# A name that only files of the one or the other kind hold.
KINDS = dict(
  diffusers="encoder.norm_out.gamma", released="encoder.head.2.weight"
)

NETWORK = Network(lambda rngs: WanNetwork(WIDTH, dtype="float32", rngs=rngs))


def make_config(weights: pathlib.Path | str, **changes: Any) -> WanVAEConfig:
  given: Any = dict(
    name="wan_vae",
    weights=str(weights),
    width=WIDTH,
    time=4,
    space=8,
    channels=16,
    causal=True,
    dtype="float32",
    chunk=1,
    tile=0,
  )
  return WanVAEConfig(**(given | changes))


def make_params(seed: int = 0) -> Any:
  """Weights such as training starts from, but with vectors that matter."""
  rng = np.random.default_rng(seed)

  def stirred(x):
    x = np.asarray(x)
    more = 0.1 * rng.normal(size=x.shape) if x.ndim == 1 else 0
    return (x + more).astype(np.float32)

  return jax.tree.map(stirred, NETWORK.init(jax.random.key(seed)))


def tensors(params: Any, kind: str) -> dict[str, np.ndarray]:
  """Return what a file with diffusers' or the released names holds."""
  leaves = tables.bind(
    wan_vae.entries([KINDS[kind]]), NETWORK.shapes, NETWORK.letters
  )
  flat = paths(params)
  assert flat.keys() == leaves.keys()
  return {
    name: np.ascontiguousarray(tensor.read())
    for path, leaf in leaves.items()
    for name, tensor in leaf.their_tensors(files.in_memory(flat[path]))
  }


def write(path: pathlib.Path, params: Any, kind: str) -> pathlib.Path:
  """Write such a .safetensors file."""
  held = tensors(params, kind)
  return files.write(path, {k: files.in_memory(x) for k, x in held.items()})
