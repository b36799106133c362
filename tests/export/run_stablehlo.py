"""Sample with exported programs, as someone does who has JAX but not us.

python run_stablehlo.py FOLDER INPUTS.npz OUTPUTS.npz
"""

import itertools
import json
import pathlib
import sys

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file


def main(folder, inputs, outputs):
  manifest = json.loads((folder / "manifest.json").read_text())
  parameters = load_file(folder / "parameters.safetensors")

  def run(name, given):
    data = (folder / f"{name}.jax").read_bytes()
    program = export.deserialize(bytearray(data))
    described = manifest["programs"][name]
    assert sorted(given) == [x["name"] for x in described["inputs"]]
    held = {k: parameters[k] for k in described["parameters"]}
    return jax.jit(program.call)(held, given)

  given = dict(np.load(inputs))
  x, at = given.pop("noise"), given.pop("times")
  scales = {
    name: np.float32(manifest["sample"][name])
    for name in ("speech_guidance", "text_guidance")
  }
  part = lambda prefix: {
    name.removeprefix(prefix): y
    for name, y in given.items()
    if name.startswith(prefix)
  }
  told = run("project", part("full/"))
  nothing = run("project", part("null/"))
  told |= {f"null_{name}": y for name, y in nothing.items()} | scales
  for start, end in itertools.pairwise(at):
    now = {"latents": x, "t": np.float32(start)}
    x += np.float32(end - start) * run("denoise", told | now)["velocity"]
  frames = run("decode", {"latents": x})["frames"]
  np.savez(outputs, latents=x, frames=frames)
  assert not {"mocha_jax", "flax"} & {*sys.modules}


if __name__ == "__main__":
  main(*map(pathlib.Path, sys.argv[1:]))
