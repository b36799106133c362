"""Play an exported folder as someone does who has neither us nor JAX.

python without_jax.py FOLDER INPUTS.npz OUTPUTS.npz

Nor accelerate, which diffusers can do without.
"""

import subprocess
import sys

import numpy as np

HIDDEN = {
  *("jax", "jaxlib", "flax", "optax", "orbax", "ml_dtypes", "mocha_jax"),
  *("accelerate", "av", "einops", "grain", "librosa", "ml_collections", "soxr"),
}


class Hiding:
  """A finder of modules that does not find some."""

  def __init__(self, finder):
    self.finder = finder

  def __getattr__(self, name):
    return getattr(self.finder, name)

  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in HIDDEN:
      return None
    return self.finder.find_spec(name, path, target)


def play(folder, place, inputs):
  """Return what comes out of a folder in a process without JAX."""
  np.savez(place / "given.npz", **inputs)
  subprocess.run(
    [
      *(sys.executable, __file__, folder),
      *(place / "given.npz", place / "made.npz"),
    ],
    check=True,
    cwd=place,
    env={"HF_HOME": str(place / "cache"), "OMP_NUM_THREADS": "1"},
  )
  return dict(np.load(place / "made.npz"))


def main(folder, inputs, outputs):
  import torch
  from diffusers import DiffusionPipeline

  torch.set_num_threads(1)  # Others want to compute, too.
  torch.set_grad_enabled(False)
  given = np.load(inputs)
  pipeline = DiffusionPipeline.from_pretrained(
    folder,
    custom_pipeline="pipeline_mocha",
    trust_remote_code=True,
    torch_dtype=getattr(torch, str(given["dtype"])),
  )
  pipeline.set_progress_bar_config(disable=True)
  transformer = pipeline.transformer
  folds = []
  for block in transformer.blocks:
    fold = block.speech_attention.fold
    block.speech_attention.fold = lambda x, fold=fold: (
      folds.append(1) or fold(x)
    )
  latents = pipeline(
    str(given["prompt"]),
    str(given["speech"]),
    num_inference_steps=int(given["steps"]),
    latents=torch.from_numpy(given["noise"]).movedim(-1, 1),
    output_type="latent",
  ).frames
  features = pipeline.encode_speech(
    pipeline.read_speech(str(given["speech"])), int(given["frames"])
  )
  np.savez(
    outputs,
    latents=latents.movedim(1, -1).numpy(),
    features=features.numpy(),
    frames=pipeline.decode(latents, "np"),
    folds=len(folds) / len(transformer.blocks),
    jax="jax" in sys.modules,
  )


if __name__ == "__main__":
  sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
  main(*sys.argv[1:])
