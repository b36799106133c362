"""What turns frames into latents and back."""

import dataclasses
import filecmp
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from mocha_jax.codecs import grid, linear, wan_vae
from mocha_jax.codecs.wan_vae import WanVAEConfig
from mocha_jax.sections import nearest, section

CodecConfig: TypeAlias = linear.CodecConfig | WanVAEConfig

_CONFIGS = {"linear": linear.CodecConfig, "wan_vae": WanVAEConfig}
# How a codec is computed; what it makes differs by rounding at most.
_MEANS = ("dtype", "chunk", "tile")


class Codec(Protocol):
  """Encodes and decodes clips, one at a time or batched."""

  @property
  def config(self) -> CodecConfig:
    """What it was made by; its type is that of the codec."""
    ...

  @property
  def time(self) -> int:
    """Frames in one latent, r."""
    ...

  @property
  def space(self) -> int:
    """Rows, and columns, of pixels in one latent."""
    ...

  @property
  def channels(self) -> int:
    """Numbers in one latent."""
    ...

  @property
  def causal(self) -> bool:
    """Whether frame 0 is a latent of its own: 1 + r k frames, 1 + k latents."""
    ...

  def latent_shape(
    self, frames: int, height: int, width: int
  ) -> tuple[int, int, int, int]:
    """Return [f h w c] of such a clip; ValueError if it does not divide."""
    ...

  def encode(
    self, frames: UInt8[np.ndarray, "*B F H W 3"]
  ) -> Float[np.ndarray, "*B f h w c"]:
    """Turn frames into latents of about unit variance."""
    ...

  def decode(
    self, latents: Float[np.ndarray, "*B f h w c"]
  ) -> UInt8[np.ndarray, "*B F H W 3"]:
    """Turn latents back into frames."""
    ...

  def save(self, path: str | os.PathLike[str]) -> None:
    """Write all that `load` needs."""
    ...


def make_config(given: Mapping[str, Any]) -> CodecConfig:
  """Turn section `codec` into the config of the codec that it names.

  Raises:
    ValueError: the name is unknown, or a key is wrong.
  """
  if "name" not in given:
    raise ValueError(f"config.codec.name is missing: one of {[*_CONFIGS]}")
  name = given["name"]
  if name not in _CONFIGS:
    raise ValueError(
      f"config.codec.name = {name!r} is unknown{nearest(str(name), _CONFIGS)}"
    )
  return section(_CONFIGS[name], given, "codec")


def latent_shape(
  config: CodecConfig, frames: int, height: int, width: int
) -> tuple[int, int, int, int]:
  """Return [f h w c] of a clip; ValueError names the nearest that divide."""
  return grid.latent_shape(config, frames, height, width)


def fit(
  config: CodecConfig, clips: Iterable[UInt8[np.ndarray, "F H W 3"]]
) -> Codec:
  """Return the codec that the config names, fitted to training clips.

  One with weights of its own looks at none.

  Raises:
    ValueError: there are no clips or no weights, or they do not fit.
  """
  if isinstance(config, WanVAEConfig):
    return wan_vae.open_weights(config)
  return linear.fit(config, clips)


def load(path: str | os.PathLike[str]) -> Codec:
  """Open a codec from the file that its `save` wrote.

  Raises:
    ValueError: there is no such file, or it is no codec's.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"no codec file {path}")
  try:
    with np.load(path, allow_pickle=False) as file:
      name = json.loads(str(file["config"]))["name"]
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path} is no codec: {error}") from error
  return (wan_vae if name == "wan_vae" else linear).load(path)


def are_same(
  path: str | os.PathLike[str], other: str | os.PathLike[str]
) -> bool:
  """Return whether files hold one codec, however it is to be computed.

  Raises:
    ValueError: there is no such file, or it is no codec's.
  """
  one, two = (dataclasses.asdict(load(file).config) for file in (path, other))
  if filecmp.cmp(path, other, shallow=False):
    return True
  if any(one[key] != two.get(key) for key in one if key not in _MEANS):
    return False
  with np.load(path) as a, np.load(other) as b:
    return a.files == b.files and all(
      np.array_equal(a[name], b[name]) for name in a.files if name != "config"
    )
