"""A run as StableHLO programs, which any XLA runs: CUDA, ROCm, TPU, CPU.

  manifest.json        every program's inputs and outputs, in order
  project.jax          features of speech, and text -> what `denoise` is told
  denoise.jax          latents, flow time, ... -> guided velocity
  decode.jax           latents -> frames, uint8; if the codec is linear
  parameters.safetensors    what they all take, by name

`jax.export.deserialize` opens a program; it takes two dicts by name, first its
parameters, then its inputs, the number of clips B being free. NAME.stablehlo is
the same without JAX's account of it: first the index of the platform in the
manifest, then parameters and inputs in its order. Euler's steps from noise x at
t = 0 are x += (t' - t) denoise(...).

Attention is in XLA's own form on every platform: a kernel for one of them, such
as Pallas's, would have to be in the programs of all.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from mocha_jax import run
from mocha_jax.batch import Condition
from mocha_jax.codecs.linear import LinearCodec
from mocha_jax.diffusion import guidance
from mocha_jax.encoders import make_text_encoders
from mocha_jax.models import make_config, make_model
from mocha_jax.models.backbone import Projected, project
from mocha_jax.network import Network
from mocha_jax.weights import files
from mocha_jax.weights.tables import Stored

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_CODEC = "codec."
_PROJECTING = ("text.", "speech.")

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
  """call(parameters, inputs) -> outputs, dicts all; and what it is given."""

  call: Callable[[Arrays, Arrays], Arrays]
  parameters: Arrays
  inputs: Arrays


def write(
  opened: run.Run,
  parameters: Mapping[str, Stored],
  folder: pathlib.Path,
  *,
  shard_bytes: int = files.SHARD_BYTES,
) -> None:
  """Write the folder.

  parameters: of the run, by dotted path; each is read when its turn comes.
  """
  held = dict(parameters) | {
    _CODEC + name: files.in_memory(np.asarray(x))
    for name, x in _codec_arrays(opened.codec()).items()
  }
  shapes = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in held.items()
  }
  folder.mkdir(parents=True, exist_ok=True)
  described = {}
  for name, program in programs(opened, shapes).items():
    exported = export.export(
      jax.jit(program.call, keep_unused=True), platforms=PLATFORMS
    )(program.parameters, program.inputs)
    (folder / f"{name}.jax").write_bytes(exported.serialize())
    raw = exported.mlir_module_serialized
    (folder / f"{name}.stablehlo").write_bytes(raw)
    described[name] = {
      "parameters": sorted(program.parameters),
      "inputs": _listed(program.inputs),
      "outputs": _listed(
        jax.tree.unflatten(exported.out_tree, exported.out_avals)
      ),
    }
  files.write_sharded(folder, held, stem="parameters", shard_bytes=shard_bytes)
  sample = opened.config.to_dict()["sample"]
  manifest = {
    "jax": jax.__version__,
    "platforms": PLATFORMS,
    "programs": described,
    "sample": {k: sample[k] for k in _SAMPLING},
  }
  text = json.dumps(manifest, indent=2)
  (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


_SAMPLING = (
  *("steps", "schedule", "shift", "speech_guidance", "text_guidance"),
)


def _listed(arrays: Arrays) -> list[dict[str, Any]]:
  """Describe arrays in the order in which a program has them flat."""
  return [
    {"name": name, "shape": [*map(_size, x.shape)], "dtype": str(x.dtype)}
    for name, x in sorted(arrays.items())
  ]


def _size(size: Any) -> int | str:
  """Return a size as JSON has it: a number, or the letter B."""
  return size if isinstance(size, int) else str(size)


def programs(opened: run.Run, shapes: Arrays) -> dict[str, Program]:
  """Return the programs of a run, for a free number of clips.

  shapes: of its parameters, and of the codec's.
  """
  given = opened.config.to_dict()
  clip, codec = given["clip"], opened.codec()
  model = given["model"]
  config = make_config(
    model | {"attention": "xla", "speech": model["speech"] | _BY_XLA}
  )
  network = Network(lambda rngs: make_model(config, rngs=rngs))
  (b,) = export.symbolic_shape("B")
  grid = codec.latent_shape(clip["frames"], clip["height"], clip["width"])
  f32 = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")
  condition = _condition(given, b)
  is_projecting = lambda path: path.startswith(_PROJECTING)
  ours = {k: x for k, x in shapes.items() if not k.startswith(_CODEC)}
  projecting = {k: x for k, x in ours.items() if is_projecting(k)}
  denoising = {k: x for k, x in ours.items() if not is_projecting(k)}
  codecs = {k: x for k, x in shapes.items() if k.startswith(_CODEC)}

  def bind(parameters: Arrays) -> Any:
    return network.bind(_nested(parameters))

  def projected(parameters: Arrays, inputs: Arrays) -> Arrays:
    out = project(bind(parameters), _to_condition(inputs))
    return {"speech": out.speech, "text": out.text, "text_mask": out.text_mask}

  def denoised(parameters: Arrays, inputs: Arrays) -> Arrays:
    x = inputs["latents"]
    part = lambda prefix: Projected(
      **{name: inputs[prefix + name] for name in _PROJECTED}
    )
    scale = guidance.Guidance(
      speech=inputs["speech_guidance"], text=inputs["text_guidance"]
    )
    model = guidance.nested(bind(parameters).velocity, part("null_"), scale)
    t = jnp.broadcast_to(inputs["t"], x.shape[:1])
    return {"velocity": model(x, t, part(""))}

  told = jax.eval_shape(projected, projecting, condition)
  latents = {"latents": f32(b, *grid)}
  scales = {name: f32() for name in ("t", "speech_guidance", "text_guidance")}
  nulls = {f"null_{name}": x for name, x in told.items()}
  made = {
    "project": Program(projected, projecting, condition),
    "denoise": Program(denoised, denoising, latents | scales | told | nulls),
  }
  if not isinstance(codec, LinearCodec):
    return made

  def decoded(parameters: Arrays, inputs: Arrays) -> Arrays:
    arrays = {k.removeprefix(_CODEC): x for k, x in parameters.items()}
    return {"frames": _decode(codec, arrays, inputs["latents"])}

  return made | {"decode": Program(decoded, codecs, latents)}


_BY_XLA = {"implementation": "xla"}
_PROJECTED = tuple(field.name for field in dataclasses.fields(Projected))


def _condition(given: Mapping[str, Any], b: Any) -> Arrays:
  """Return the shapes of what B clips are conditioned on, by name."""
  model, frames = given["model"], given["clip"]["frames"]
  features = model["speech"]["features"]
  inputs = {"speech": jax.ShapeDtypeStruct((b, frames, features), "float32")}
  for name, encoder in make_text_encoders(given["text_encoder"]).items():
    length, width = encoder.length, encoder.width
    inputs[f"text.{name}"] = (
      jax.ShapeDtypeStruct((b, length, width), "float32")
      if width
      else jax.ShapeDtypeStruct((b, length), "int32")
    )
    inputs[f"text_mask.{name}"] = jax.ShapeDtypeStruct((b, length), "bool")
  return inputs


def _to_condition(inputs: Arrays) -> Condition:
  of = lambda prefix: {
    name.removeprefix(prefix): x
    for name, x in inputs.items()
    if name.startswith(prefix)
  }
  return Condition(inputs["speech"], of("text."), of("text_mask."))


def _nested(flat: Arrays) -> Any:
  """Put what lies at a path, such as "blocks.mlp.up", into a tree."""
  tree: Any = {}
  for path, x in flat.items():
    *parents, last = path.split(".")
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = x
  return tree


def _codec_arrays(codec: Any) -> Arrays:
  """Return what decoding takes, by name."""
  if not isinstance(codec, LinearCodec):
    return {}
  synthesis, mean = codec.synthesis
  return {"synthesis": synthesis, "mean": mean}


def _decode(
  codec: LinearCodec, arrays: Arrays, latents: jax.Array
) -> jax.Array:
  """Return frames, uint8 "B F H W 3"."""
  blocks = latents @ arrays["synthesis"] + arrays["mean"]
  pixels = jnp.clip(jnp.rint(blocks), 0, 255).astype(jnp.uint8)
  b, f, h, w, _ = latents.shape
  r, s = codec.time, codec.space
  cut = pixels.reshape(b, f, h, w, r, s, s, 3)
  frames = cut.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  frames = frames.reshape(b, f * r, h * s, w * s, 3)
  return frames[:, r - 1 :] if codec.causal else frames
