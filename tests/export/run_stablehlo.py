"""Sample with exported programs, as someone does who has JAX but not us.

python run_stablehlo.py FOLDER INPUTS.npz OUTPUTS.npz

INPUTS: noise, sound, heard, and of each text NAME, after full/ and null/,
ids.NAME and text_mask.NAME.
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

  def run(name, known):
    data = (folder / f"{name}.jax").read_bytes()
    program = export.deserialize(bytearray(data))
    described = manifest["programs"][name]
    given = {x["name"]: known[x["name"]] for x in described["inputs"]}
    held = {k: parameters[k] for k in described["parameters"]}
    made = jax.jit(program.call)(held, given)
    assert sorted(made) == [x["name"] for x in described["outputs"]]
    return made

  given = dict(np.load(inputs))

  def project(prefix, speech):
    known = {
      name.removeprefix(prefix): x
      for name, x in given.items()
      if name.startswith(prefix)
    }
    known["speech"] = speech
    for name in manifest["text"]:
      if f"encode_text.{name}" in manifest["programs"]:
        known |= run(f"encode_text.{name}", known)
      else:
        known[f"text.{name}"] = known[f"ids.{name}"]
    return run("project", known)

  speech = run("encode_speech", given)["speech"]
  told = project("full/", speech)
  nothing = project("null/", np.zeros_like(speech))
  told |= {f"null_{name}": x for name, x in nothing.items()}
  for name in ("speech_guidance", "text_guidance"):
    told[name] = np.float32(manifest["sample"][name])
  x = given["noise"]
  for start, end in itertools.pairwise(manifest["sample"]["times"]):
    now = {"latents": x, "t": np.float32(start)}
    x += np.float32(end - start) * run("denoise", told | now)["velocity"]
  frames = run("decode", {"latents": x})["frames"]
  again = run("encode", {"frames": frames})["latents"]
  made = {"speech": speech, "latents": x, "frames": frames, "again": again}
  np.savez(outputs, **made)
  assert not {"mocha_jax", "flax"} & {*sys.modules}


if __name__ == "__main__":
  main(*map(pathlib.Path, sys.argv[1:]))
