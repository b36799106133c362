"""Wan2.1's causal 3D VAE as a codec: 4x8x8 pixels become 16 numbers.

  z = (mean of q(z | frames) - MEAN) / STD

1 + 4k frames become 1 + k latents, frame 0 alone. Nothing is fitted: weights
come from a file, and the codec's own file, which lies in a run, holds them too.
"""

import dataclasses
import functools
import json
import os
import pathlib
import zipfile
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, UInt8

from mocha_jax.codecs.grid import OnGrid
from mocha_jax.codecs.wan_network import Cuts, WanNetwork
from mocha_jax.network import Network, nested, paths
from mocha_jax.sections import positive, section

_PARAMS = "params/"  # Before the path of a parameter in the codec's file.


@dataclasses.dataclass(frozen=True)
class WanVAEConfig:
  """Section `codec`, where its name is wan_vae.

  weights: path of Wan2.1_VAE.pth, of a .safetensors file with its names or
    with those of diffusers, or of a folder with one.
  width: channels of the first level; 96 in the released weights.
  dtype: of weights and activations.
  chunk, tile: latent frames at a time, and rows and columns of latents (0: all)
    at a time; more is faster and takes more memory.
  """

  name: Literal["wan_vae"]
  weights: str
  width: int
  time: Literal[4]
  space: Literal[8]
  channels: Literal[16]
  causal: Literal[True]
  dtype: Literal["float32", "bfloat16"]
  chunk: int
  tile: int

  def __post_init__(self):
    positive(self, "width", "chunk")
    if self.width % 2:
      raise ValueError(f"width={self.width} must be even")
    if self.tile < 0:
      raise ValueError(f"tile={self.tile} must be at least 1, or 0 for all")

  @property
  def cuts(self) -> Cuts:
    """How clips are cut."""
    return Cuts(chunk=self.chunk, tile=self.tile)


@dataclasses.dataclass(frozen=True, eq=False)
class WanVAE(OnGrid):
  """Encodes and decodes clips on this process's first device.

  Weights are read when they are first needed, so that it is cheap to send.

  source: the file that `save` wrote, or `config.weights`.
  """

  config: WanVAEConfig
  source: pathlib.Path

  def __getstate__(self) -> dict[str, Any]:
    return dict(config=self.config, source=self.source)

  def encode(
    self, frames: UInt8[np.ndarray, "*B F H W 3"]
  ) -> Float32[np.ndarray, "*B f h w c"]:
    """Turn frames, of one clip or of many, into latents of unit variance."""
    grid = self.latent_shape(*frames.shape[-4:-1])
    clips = frames.reshape(-1, 1, *frames.shape[-4:])
    clips = np.moveaxis(clips, -1, 3)
    made = [np.asarray(self._encode(self._on_device, clip)) for clip in clips]
    return np.concatenate(made).reshape(*frames.shape[:-4], *grid)

  def decode(
    self, latents: Float[np.ndarray, "*B f h w c"]
  ) -> UInt8[np.ndarray, "*B F H W 3"]:
    """Turn latents back into frames."""
    self.check_channels(latents)
    clips = latents.astype(np.float32).reshape(-1, 1, *latents.shape[-4:])
    made = [np.asarray(self._decode(self._on_device, clip)) for clip in clips]
    frames = np.moveaxis(np.concatenate(made), 2, -1)
    return frames.reshape(*latents.shape[:-4], *frames.shape[1:])

  def save(self, path: str | os.PathLike[str]) -> None:
    """Write one .npz file, config and weights, under its name at the end.

    Where the weights came from is left out: the same ones make the same file.
    """
    path = pathlib.Path(path)
    config = dataclasses.replace(self.config, weights="")
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
      np.savez(
        file,
        allow_pickle=False,
        config=np.array(json.dumps(dataclasses.asdict(config))),
        **{_PARAMS + name: x for name, x in paths(self.params).items()},
      )
    part.replace(path)

  @functools.cached_property
  def network(self) -> Network:
    """The structure."""
    config = self.config
    return Network(
      lambda rngs: WanNetwork(config.width, dtype=config.dtype, rngs=rngs)
    )

  @functools.cached_property
  def params(self) -> Any:
    """The weights, float32, on the host.

    Raises:
      ValueError: there are none, or they are of another network; all tensors
        that do not fit are listed.
    """
    if self.source.suffix == ".npz":
      with _opened(self.source) as file:
        flat = {
          name.removeprefix(_PARAMS): file[name]
          for name in file.files
          if name.startswith(_PARAMS)
        }
    else:
      flat = self._foreign()
    return nested(flat)

  def _foreign(self) -> dict[str, np.ndarray]:
    """Read other people's weights."""
    from mocha_jax.weights import files, misfits, tables, wan_vae

    if not self.config.weights:
      raise ValueError(
        "config.codec.weights: the codec wan_vae needs the path of its weights,"
        " such as Wan2.1_VAE.pth or diffusers' folder vae"
      )
    try:
      tensors = files.open_tensors(self.source, "vae")
      entries = wan_vae.entries(tensors)
      shapes, letters = self.network.shapes, self.network.letters
      with misfits.of(self.source):
        plan = tables.plan(entries, shapes, letters, tensors)
        return {
          path: leaf.read_ours(tensors, dtype=np.float32)
          for path, leaf in plan.leaves.items()
        }
    except (OSError, ValueError) as error:
      raise ValueError(f"config.codec.weights: {error}") from error

  @functools.cached_property
  def _on_device(self) -> Any:
    """The weights as they are computed with; vectors stay float32."""
    dtype = jnp.dtype(self.config.dtype)
    cast = lambda x: x.astype(dtype) if x.ndim > 1 else x
    return jax.device_put(jax.tree.map(cast, self.params))

  @functools.cached_property
  def _encode(self):
    return jax.jit(encoder(self.network, self.config.cuts))

  @functools.cached_property
  def _decode(self):
    return jax.jit(decoder(self.network, self.config.cuts))


def encoder(network: Network, cuts: Cuts):
  """Return encode(params, frames) -> latents, to be compiled.

  Frames are uint8 "B F 3 H W": TPUs pad a last axis of 3 to 128.
  """
  return lambda params, frames: _bound(network, params).encode(
    jnp.moveaxis(frames, 2, -1), cuts
  )


def decoder(network: Network, cuts: Cuts):
  """Return decode(params, latents "B f h w c") -> frames, as `encoder`'s."""
  return lambda params, latents: jnp.moveaxis(
    _bound(network, params).decode(latents, cuts, dtype="uint8"), -1, 2
  )


def _bound(network: Network, params: Any) -> WanNetwork:
  model: nnx.Module = network.bind(params)
  assert isinstance(model, WanNetwork)
  return model


def open_weights(config: WanVAEConfig) -> WanVAE:
  """Return the codec with the weights of its config.

  Raises:
    ValueError: there are none, or they are of another network.
  """
  codec = WanVAE(config, pathlib.Path(config.weights))
  _ = codec.params  # Now rather than late.
  return codec


def load(path: str | os.PathLike[str]) -> WanVAE:
  """Open a codec that `save` wrote; ValueError if the file is another."""
  path = pathlib.Path(path)
  with _opened(path) as file:
    config = json.loads(str(file["config"]))
  return WanVAE(section(WanVAEConfig, config, "codec"), path)


def _opened(path: pathlib.Path) -> Any:
  if not path.is_file():
    raise ValueError(f"no codec file {path}")
  try:
    return np.load(path, allow_pickle=False)
  except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path} is no codec: {error}") from error
