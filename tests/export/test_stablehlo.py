import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from mocha_jax import prompts
from mocha_jax.diffusion.sample import linear_quadratic
from mocha_jax.export import stablehlo
from tests import numerics, untrained

STEPS = 2
PLAYER = pathlib.Path(__file__).parent / "run_stablehlo.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A run and its programs."""
  folder = tmp_path_factory.mktemp("stablehlo")
  opened, network, params = untrained.make_run(folder / "run", {})
  stablehlo.write(opened, untrained.stored(params), folder / "made")
  return opened, network, params, folder / "made"


def test_programs_sample_the_same_clips_without_us(made, tmp_path):
  opened, network, params, folder = made
  given, codec = opened.config.to_dict(), opened.codec()
  text = prompts.format(prompts.parse(untrained.PROMPT))
  clips = []
  for seed in (1, 2):  # Of as many clips as one likes.
    conditions = untrained.encode(
      given, text, untrained.make_speech(given, seed)
    )
    clips.append((untrained.make_noise(given, codec, seed), *conditions))
  noise, full, null = jax.tree.map(lambda *x: np.concatenate(x), *clips)
  inputs = {"noise": noise, "times": linear_quadratic(STEPS)}
  for prefix, condition in (("full/", full), ("null/", null)):
    inputs[f"{prefix}speech"] = condition.speech
    for name in condition.text:
      inputs[f"{prefix}text.{name}"] = condition.text[name]
      inputs[f"{prefix}text_mask.{name}"] = condition.text_mask[name]
  np.savez(tmp_path / "given.npz", **inputs)
  subprocess.run(
    [sys.executable, PLAYER, folder, *(tmp_path / n for n in NAMES)],
    check=True,
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": ""},
  )
  out = np.load(tmp_path / NAMES[1])
  for i, (noise, *conditions) in enumerate(clips):
    want = untrained.sample(given, network, params, noise, conditions, STEPS)
    numerics.assert_sampled_alike(out["latents"][i], want[0])
  frames = codec.decode(out["latents"])
  assert np.abs(out["frames"].astype(int) - frames).max() <= 1


NAMES = ("given.npz", "made.npz")


def test_programs_are_for_all_platforms_and_hold_no_kernel(made):
  folder = made[-1]
  manifest = json.loads((folder / "manifest.json").read_text())
  assert [*manifest["programs"]] == ["project", "denoise", "decode"]
  for name in manifest["programs"]:
    data = bytearray((folder / f"{name}.jax").read_bytes())
    program = export.deserialize(data)
    assert program.platforms == ("cpu", "cuda", "rocm", "tpu")
    text = program.mlir_module()
    assert "stablehlo" in text
    assert "tpu_custom_call" not in text
    raw = (folder / f"{name}.stablehlo").read_bytes()
    assert raw == program.mlir_module_serialized


def test_manifest_accounts_for_every_parameter_and_shape(made):
  opened, _, params, folder = made
  manifest = json.loads((folder / "manifest.json").read_text())
  programs = manifest["programs"]
  taken = [name for p in programs.values() for name in p["parameters"]]
  ours = [name for name in taken if not name.startswith("codec.")]
  assert sorted(ours) == sorted(untrained.stored(params))
  assert len(taken) == len({*taken})
  (latents,) = programs["decode"]["inputs"]
  clip = opened.config.to_dict()["clip"]
  size = (clip["frames"], clip["height"], clip["width"])
  grid = opened.codec().latent_shape(*size)
  assert latents["shape"] == ["B", *grid]
