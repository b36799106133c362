"""A run as StableHLO programs, which any XLA runs: CUDA, ROCm, TPU, CPU.

  manifest.json        every program's inputs and outputs, in order; what sound
                       and tokens must be; the times of a sample's steps
  encode_text.NAME.jax ids and mask -> features of text; of encoders with
                       weights of their own
  encode_speech.jax    sound -> features of speech
  project.jax          features of speech, and text -> what `denoise` is told
  denoise.jax          latents, flow time, ... -> guided velocity
  decode.jax           latents -> frames, uint8
  encode.jax           frames -> latents
  tokenizer.NAME.json  of text encoders that have a file
  parameters.safetensors    what they all take, by name

`jax.export.deserialize` opens a program; it takes two dicts by name, first its
parameters, then its inputs, the number of clips B being free. An output bears
the name of the input that takes it; `denoise` takes those of `project` twice,
as they are and with null_ before them: of the empty prompt, and of zeros for
features of speech. Euler's steps from noise x, of the manifest's times from
t = 0 to 1, are x += (t' - t) denoise(...).

NAME.stablehlo is the same without JAX's account of it: first the index of the
platform in the manifest, then parameters and inputs in its order; what compiles
it must be told B first (StableHLO's refinement of shapes).

Attention is in XLA's own form on every platform: a kernel for one of them, such
as Pallas's, would have to be in the programs of all.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax import export

from mocha_jax import run
from mocha_jax.diffusion.sample import SampleConfig, times
from mocha_jax.export.stablehlo import backbone, codec, speech, text
from mocha_jax.export.stablehlo.program import Arrays, Program
from mocha_jax.sections import section
from mocha_jax.weights import files
from mocha_jax.weights.tables import Stored

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write(
  opened: run.Run,
  parameters: Mapping[str, Stored],
  folder: pathlib.Path,
  *,
  shard_bytes: int = files.SHARD_BYTES,
) -> None:
  """Write the folder.

  parameters: of the run, by dotted path; each is read when its turn comes, as
    are those of encoders.

  Raises:
    NotImplementedError: the run's codec or an encoder has no program.
    ValueError: an encoder has no weights, or they are of another network.
  """
  given = opened.config.to_dict()
  settings = section(SampleConfig, given["sample"], "sample")
  (b,) = export.symbolic_shape("B")
  coded = opened.codec()
  grid = coded.latent_shape(*(given["clip"][key] for key in _SIDES))
  programs = {
    **text.programs(given, b),
    **speech.programs(given, b),
    **backbone.programs(given, grid, parameters, b),
    **codec.programs(coded, given["clip"], b),
  }
  folder.mkdir(parents=True, exist_ok=True)
  described = {
    name: _write(program, folder / name) for name, program in programs.items()
  }
  held = {k: x for p in programs.values() for k, x in p.parameters.items()}
  files.write_sharded(folder, held, stem="parameters", shard_bytes=shard_bytes)
  manifest = {
    "jax": jax.__version__,
    "platforms": PLATFORMS,
    "programs": described,
    "clip": given["clip"],
    "sound": speech.described(given),
    "text": text.described(given, folder),
    "sample": {k: given["sample"][k] for k in _SAMPLING}
    | {"times": times(settings).tolist()},
  }
  content = json.dumps(manifest, indent=2)
  (folder / "manifest.json").write_text(content + "\n", encoding="utf-8")


_SIDES = ("frames", "height", "width")
_SAMPLING = (
  *("steps", "schedule", "shift", "speech_guidance", "text_guidance"),
)


def _write(program: Program, path: pathlib.Path) -> dict[str, Any]:
  """Write both files of a program; return what the manifest says of it."""
  exported = export.export(
    jax.jit(program.call, keep_unused=True), platforms=PLATFORMS
  )(program.shapes, program.inputs)
  for ending, data in (
    ("jax", exported.serialize()),
    ("stablehlo", exported.mlir_module_serialized),
  ):
    path.with_name(f"{path.name}.{ending}").write_bytes(data)
  outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  return {
    "parameters": sorted(program.parameters),
    "inputs": _listed(program.inputs),
    "outputs": _listed(outputs),
  }


def _listed(arrays: Arrays) -> list[dict[str, Any]]:
  """Describe arrays in the order in which a program has them flat."""
  return [
    {"name": name, "shape": [*map(_size, x.shape)], "dtype": str(x.dtype)}
    for name, x in sorted(arrays.items())
  ]


def _size(size: Any) -> int | str:
  """Return a size as JSON has it: a number, or the letter B."""
  return size if isinstance(size, int) else str(size)
