import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax import export
from ml_collections import ConfigDict

from mocha_jax import prompts, tpu_compiler
from mocha_jax.compilation import topology
from mocha_jax.diffusion.sample import SampleConfig
from mocha_jax.encoders import make_text_encoders
from mocha_jax.export import stablehlo
from mocha_jax.generation import Generator
from mocha_jax.sections import section
from mocha_jax.weights import files
from tests import frozen_encoders, numerics, small_wan, tiny, untrained

PLAYER = pathlib.Path(__file__).parent / "run_stablehlo.py"
SEED = 3
TOKENIZER = "tokenizer.metaclip.json"


def quickstart(folder):
  """Log mel, hashed words and a fitted codec, as the quickstart has them."""
  return untrained.make_run(folder / "run", {})


def several_texts(folder):
  """The same with ByT5, CLIP by a tokenizer's file, causal codec, adapters."""
  words = frozen_encoders.write_tokenizer(folder / "words.json", ["talks"])
  clip = dict(tokenizer=words)
  sections = dict(
    byt5=frozen_encoders.BYT5 | dict(length=96),
    metaclip=frozen_encoders.CLIP | clip,
  )
  given: Any = tiny.get_config()
  given.clip.frames = 13
  given.codec.causal = True
  given.text_encoder = ConfigDict(
    {
      name: frozen_encoders.with_weights(of, folder / name)
      for name, of in sections.items()
    }
  )
  given.model.frozen_text = dict(byt5=16, metaclip=16)
  given.model.small_text = None
  given.model.lora.update(rank=2, alpha=3.0, targets=("text_attention.out",))
  given.trainable.preset = "speech+lora"
  return untrained.fit_run(folder / "run", given)


RUNS = (quickstart, several_texts, small_wan.make_run)
ENCODING = {
  quickstart: [],
  several_texts: ["encode_text.byt5", "encode_text.metaclip"],
  small_wan.make_run: ["encode_text.umt5"],
}


@pytest.fixture(
  scope="module", params=RUNS, ids=["quickstart", "several_texts", "wan"]
)
def made(request, tmp_path_factory):
  """A run and its programs; and which of them encode text."""
  folder = tmp_path_factory.mktemp("stablehlo")
  opened, network, params = request.param(folder)
  stablehlo.write(opened, untrained.stored(params), folder / "made")
  text = ENCODING[request.param]
  return opened, network, params, folder / "made", text


def test_programs_sample_the_same_clips_without_us(made, tmp_path):
  opened, network, params, folder, _ = made
  given, codec = opened.config.to_dict(), opened.codec()
  texts = [untrained.PROMPT, "A man talks."]  # As many clips as one likes.
  speech = [untrained.make_speech(given, seed) for seed in (1, 2)]
  speech[1] = speech[1][: len(speech[1]) * 2 // 3]
  clip = given["clip"]
  grid = codec.latent_shape(clip["frames"], clip["height"], clip["width"])
  keys = jax.random.split(jax.random.key(SEED), len(texts))
  noise = jax.vmap(lambda key: jax.random.normal(key, grid))(keys)
  settings = section(SampleConfig, given["sample"], "sample")
  inputs: dict[str, Any] = {"noise": noise}
  inputs |= heard(speech, folder) | tokens(given, texts)
  np.savez(tmp_path / "given.npz", **inputs)
  subprocess.run(
    [sys.executable, PLAYER, folder, *(tmp_path / n for n in NAMES)],
    check=True,
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": ""},
  )
  out = np.load(tmp_path / NAMES[1])
  for i, text in enumerate(texts):
    text = prompts.format(prompts.parse(text))
    conditions = untrained.encode(given, text, speech[i])
    numerics.assert_sampled_alike(out["speech"][i], conditions[0].speech[0])
    want = untrained.sample(
      *(given, network, params, noise[i : i + 1], conditions, settings.steps)
    )
    numerics.assert_sampled_alike(out["latents"][i], want[0])
  frames = np.moveaxis(out["frames"], 2, -1)
  numerics.assert_sampled_alike(out["again"], codec.encode(frames))

  untrained.save(opened, params)
  generator = Generator.from_run(opened.folder)
  want = generator.generate(texts, speech, seed=SEED)
  assert np.abs(frames.astype(int) - want).max() <= 1


NAMES = ("given.npz", "made.npz")


def heard(speech, folder):
  """Return sound as the manifest wants it."""
  manifest = json.loads((folder / "manifest.json").read_text())
  sound = np.zeros((len(speech), manifest["sound"]["samples"]), np.float32)
  for row, samples in zip(sound, speech, strict=True):
    row[: len(samples)] = samples
  return {"sound": sound, "heard": np.array([*map(len, speech)], np.int32)}


def tokens(given, texts):
  """Return ids and masks of prompts, and of as many empty ones."""
  texts = [prompts.format(prompts.parse(text)) for text in texts]
  found = {}
  for name, encoder in make_text_encoders(given["text_encoder"]).items():
    for prefix, said in (("full/", texts), ("null/", [""] * len(texts))):
      ids, masks = zip(*map(encoder.tokens, said), strict=True)
      found[f"{prefix}ids.{name}"] = np.stack(ids)
      found[f"{prefix}text_mask.{name}"] = np.stack(masks)
  return found


def test_programs_are_for_all_platforms_and_hold_no_kernel(made):
  *_, folder, text = made
  manifest = json.loads((folder / "manifest.json").read_text())
  rest = ["encode_speech", "project", "denoise", "decode", "encode"]
  assert [*manifest["programs"]] == text + rest
  for name in manifest["programs"]:
    data = bytearray((folder / f"{name}.jax").read_bytes())
    program = export.deserialize(data)
    assert program.platforms == ("cpu", "cuda", "rocm", "tpu")
    code = program.mlir_module()
    assert "stablehlo" in code
    for call in set(code.split("custom_call @")[1:]):
      assert call.startswith(ASSERTIONS), call[:80]
    raw = (folder / f"{name}.stablehlo").read_bytes()
    assert raw == program.mlir_module_serialized


# Of the sizes of what a program is given.
ASSERTIONS = ("shape_assertion",)


@pytest.fixture
def chip():
  """A TPU that is not here, for which the compiler compiles."""
  pytest.importorskip("libtpu", reason="the compiler for TPUs: mocha_jax[tpu]")
  tpu_compiler.prepare_environment()
  # Programs for machines that are not here cannot be read back.
  jax.config.update("jax_enable_compilation_cache", False)
  yield topology.devices(topology.parse("v5e-4", 1))[0]
  jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.slow
def test_programs_compile_for_a_tpu(made, chip):
  *_, folder, _ = made
  manifest = json.loads((folder / "manifest.json").read_text())
  held = files.open_tensors(folder / "parameters.safetensors")
  where = jax.sharding.SingleDeviceSharding(chip)

  def shaped(shape, dtype):
    sizes = [2 if size == "B" else size for size in shape]
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

  for name, described in manifest["programs"].items():
    data = bytearray((folder / f"{name}.jax").read_bytes())
    given = (
      {
        k: shaped(held[k].shape, held[k].dtype) for k in described["parameters"]
      },
      {x["name"]: shaped(x["shape"], x["dtype"]) for x in described["inputs"]},
    )
    jax.jit(export.deserialize(data).call).lower(*given).compile()


def test_manifest_accounts_for_every_parameter_and_shape(made):
  opened, _, params, folder, text = made
  manifest = json.loads((folder / "manifest.json").read_text())
  programs = manifest["programs"]
  taken = [name for p in programs.values() for name in p["parameters"]]
  parts = ("codec.", "speech_encoder.", "text_encoder.")
  ours = [name for name in taken if not name.startswith(parts)]
  assert sorted(ours) == sorted(untrained.stored(params))
  assert len(taken) == len({*taken})
  assert all(programs[name]["parameters"] for name in text)
  (latents,) = programs["decode"]["inputs"]
  (frames,) = programs["decode"]["outputs"]
  clip = opened.config.to_dict()["clip"]
  size = (clip["frames"], clip["height"], clip["width"])
  grid = opened.codec().latent_shape(*size)
  assert latents["shape"] == ["B", *grid]
  assert frames["shape"] == ["B", size[0], 3, *size[1:]]
  assert programs["encode"]["inputs"] == [frames]


def test_tokenizers_lie_beside_the_programs(made):
  opened, *_, folder, _ = made
  manifest = json.loads((folder / "manifest.json").read_text())
  encoders = opened.config.to_dict()["text_encoder"]
  named = {name: x["tokenizer"] for name, x in manifest["text"].items()}
  assert named in (
    {"small_text": "small_text"},
    {"umt5": "bytes"},
    {"byt5": "bytes", "metaclip": TOKENIZER},
  )
  for name, tokenizer in named.items():
    if tokenizer == TOKENIZER:
      source = pathlib.Path(encoders[name]["tokenizer"])
      assert (folder / tokenizer).read_bytes() == source.read_bytes()
