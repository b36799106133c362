"""The codec as two programs; frames are uint8 in planes, [B F 3 H W].

TPUs pad a last axis of 3 to 128.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mocha_jax.codecs import Codec
from mocha_jax.codecs.linear import LinearCodec
from mocha_jax.codecs.wan_vae import WanVAE, decoder, encoder
from mocha_jax.export.stablehlo.program import Arrays, Program, array
from mocha_jax.network import nested, paths
from mocha_jax.weights import files

_PREFIX = "codec."


def programs(
  codec: Codec, clip: Mapping[str, Any], b: Any
) -> dict[str, Program]:
  """Return `decode` and `encode`.

  Raises:
    NotImplementedError: the codec has no program.
  """
  frames, height, width = (clip[k] for k in ("frames", "height", "width"))
  grid = codec.latent_shape(frames, height, width)
  latents = {"latents": array("float32", b, *grid)}
  pixels = {"frames": array("uint8", b, frames, 3, height, width)}
  if isinstance(codec, WanVAE):
    return _wan_vae(codec, latents, pixels)
  if isinstance(codec, LinearCodec):
    return _linear(codec, latents, pixels)
  raise NotImplementedError(
    f"the codec {type(codec).__name__} is not exported to StableHLO"
  )


def _wan_vae(
  codec: WanVAE, latents: Arrays, pixels: Arrays
) -> dict[str, Program]:
  """Its weights are float32, as in the codec's file, and cast where used."""
  decode = decoder(codec.network, codec.config.cuts)
  encode = encoder(codec.network, codec.config.cuts)

  def decoded(parameters: Arrays, inputs: Arrays) -> Arrays:
    params = nested(parameters, _PREFIX)
    return {"frames": decode(params, inputs["latents"])}

  def encoded(parameters: Arrays, inputs: Arrays) -> Arrays:
    params = nested(parameters, _PREFIX)
    return {"latents": encode(params, inputs["frames"])}

  held = {
    _PREFIX + path: files.in_memory(x)
    for path, x in paths(codec.params).items()
  }
  of = lambda *modules: {
    path: x for path, x in held.items() if path.split(".")[1] in modules
  }
  return {
    "decode": Program(decoded, of("latents", "decoder"), latents),
    "encode": Program(encoded, of("encoder", "moments"), pixels),
  }


def _linear(
  codec: LinearCodec, latents: Arrays, pixels: Arrays
) -> dict[str, Program]:
  r, s = codec.time, codec.space
  before = r - 1 if codec.causal else 0  # Frame 0 fills a block.
  _, f, h, w, _ = latents["latents"].shape

  def decoded(parameters: Arrays, inputs: Arrays) -> Arrays:
    blocks = _affine(inputs["latents"], parameters, ("synthesis", "mean"))
    values = jnp.clip(jnp.rint(blocks), 0, 255).astype(jnp.uint8)
    cut = values.reshape(-1, f, h, w, r, s, s, 3)
    frames = cut.transpose(0, 1, 4, 7, 2, 5, 3, 6)
    frames = frames.reshape(-1, f * r, 3, h * s, w * s)
    return {"frames": frames[:, before:]}

  def encoded(parameters: Arrays, inputs: Arrays) -> Arrays:
    frames = inputs["frames"].astype(jnp.float32)
    first = jnp.repeat(frames[:, :1], before, axis=1)
    frames = jnp.concatenate([first, frames], axis=1)
    cut = frames.reshape(-1, f, r, 3, h, s, w, s)
    blocks = cut.transpose(0, 1, 4, 6, 2, 5, 7, 3)
    blocks = blocks.reshape(-1, f, h, w, codec.config.block)
    return {"latents": _affine(blocks, parameters, ("analysis", "offset"))}

  synthesis, mean = codec.synthesis
  analysis, offset = codec.analysis
  of = lambda **arrays: {
    _PREFIX + name: files.in_memory(x) for name, x in arrays.items()
  }
  return {
    "decode": Program(decoded, of(synthesis=synthesis, mean=mean), latents),
    "encode": Program(encoded, of(analysis=analysis, offset=offset), pixels),
  }


def _affine(
  x: jax.Array, parameters: Arrays, names: tuple[str, str]
) -> jax.Array:
  """Return x @ matrix + vector, in full precision on TPUs too."""
  matrix, vector = (parameters[_PREFIX + name] for name in names)
  return jnp.matmul(x, matrix, precision="highest") + vector
