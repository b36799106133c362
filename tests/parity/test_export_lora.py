"""Adapters beside an exported transformer, which adds them in PyTorch."""

import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
import torch
from ml_collections import ConfigDict

from mocha_jax import exporting, importing, run
from mocha_jax.batch import Condition
from mocha_jax.export.pytorch import (
  scheduler_flow,
  transformer_movie_gen,
  transformer_wan,
)
from mocha_jax.network import nested, paths
from mocha_jax.weights import files
from tests import numerics, small_wan, tiny, untrained

STEPS, RANK = 10, 2
FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
ADAPTED = {
  transformer_movie_gen.MochaMovieGenTransformer3DModel: (
    *("self_attention.query", "self_attention.out"),
    *("text_attention.key", "text_attention.value"),
  ),
  transformer_wan.MochaWanTransformer3DModel: (
    *("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v"),
  ),
}
TARGETS = ADAPTED[transformer_movie_gen.MochaMovieGenTransformer3DModel]


def small_config(made):
  given: Any = tiny.get_config()
  if made is transformer_wan.MochaWanTransformer3DModel:
    given.clip.frames, given.codec.causal = 13, True
    text = dict(vocabulary=512, length=given.text_encoder.length, layers=1)
    features = given.model.speech.features
    given.model = ConfigDict(
      small_wan.MODEL
      | dict(channels=8, max_frames=4, frozen_text={}, small_text=text)
      | dict(speech=small_wan.MODEL["speech"] | dict(features=features))
    )
  given.model.lora = ConfigDict(dict(rank=RANK, alpha=3.0, targets=TARGETS))
  given.trainable.preset = "speech+lora"
  return given


@pytest.fixture(scope="module", params=ADAPTED, ids=["movie_gen", "wan"])
def made(request, tmp_path_factory):
  """A class of PyTorch's; a run, its network and parameters; its exports."""
  torch.set_num_threads(1)
  folder = tmp_path_factory.mktemp("lora")
  opened, network, params = untrained.fit_run(
    folder / "run", small_config(request.param)
  )
  untrained.save(opened, params)
  for name in ("apart", "merged"):
    source = exporting.open_source(
      opened.folder, raw=False, apart=name == "apart", dtype="float32"
    )
    exporting.export(source, folder / name, "diffusers")
  return request.param, opened, network, params, folder


def load(made, name):
  kind, folder = made[0], made[-1]
  return kind.from_pretrained(folder / name / "transformer").eval()


def sample(theirs, given, noise, conditions):
  """Return latents as the exported pipeline samples them."""
  condition, null = conditions
  heard = Condition(condition.speech, null.text, null.text_mask)
  joined = jax.tree.map(
    lambda *x: torch.from_numpy(np.concatenate(x)), null, heard, condition
  )
  sampling = given["sample"]
  scheduler = scheduler_flow.FlowEulerScheduler(
    STEPS, sampling["schedule"], sampling["shift"]
  )
  speech, text = (sampling[f"{x}_guidance"] for x in ("speech", "text"))
  with torch.no_grad():
    encoded = theirs.encode(joined.speech, joined.text, joined.text_mask)
    x = torch.from_numpy(noise).movedim(-1, 1)
    for t in scheduler.timesteps:
      v = theirs(torch.cat([x] * 3), t.expand(3), encoded).sample.chunk(3)
      guided = v[0] + speech * (v[1] - v[0]) + text * (v[2] - v[1])
      x = scheduler.step(guided, t, x).prev_sample
  return x.movedim(1, -1).numpy()


def copied(theirs):
  return {name: x.clone() for name, x in theirs.state_dict().items()}


def assert_equal(got, want):
  assert got.keys() == want.keys()
  assert all(torch.equal(got[name], x) for name, x in want.items())


def test_clips_are_ours_with_adapters_and_without(made):
  _, opened, network, params, folder = made
  given = opened.config.to_dict()
  noise = untrained.make_noise(given, opened.codec(), seed=2)
  conditions = untrained.encode(
    given, untrained.PROMPT, untrained.make_speech(given, seed=1)
  )
  want = untrained.sample(given, network, params, noise, conditions, STEPS)
  theirs = load(made, "apart")
  base = copied(theirs)
  theirs.add_lora(folder / "apart" / FILE)
  numerics.assert_sampled_alike(sample(theirs, given, noise, conditions), want)
  merged = load(made, "merged")
  numerics.assert_sampled_alike(sample(merged, given, noise, conditions), want)

  theirs.remove_lora()
  assert_equal(theirs.state_dict(), base)
  got = sample(theirs, given, noise, conditions)
  without = {
    path: x for path, x in paths(params).items() if ".lora." not in path
  }
  given["model"]["lora"]["rank"], given["trainable"]["preset"] = 0, "speech"
  network = run.make_network(ConfigDict(given))
  bare = untrained.sample(
    given, network, nested(without), noise, conditions, STEPS
  )
  numerics.assert_sampled_alike(got, bare)
  with pytest.raises(AssertionError):  # Or all of this would say nothing.
    numerics.assert_sampled_alike(got, want)


def test_added_they_are_as_merged(made):
  theirs, merged = load(made, "apart"), load(made, "merged")
  file = made[-1] / "apart" / FILE
  theirs.add_lora(file, scale=0.25)
  theirs.add_lora(file, scale=0.75)
  numerics.assert_close(
    theirs.state_dict(), merged.state_dict(), np.float32, reduced=2 * RANK
  )


def test_the_file_has_the_names_of_peft(made):
  kind, _, _, params, folder = made
  held = files.open_tensors(folder / "apart" / FILE)
  layers = len(load(made, "apart").blocks)
  assert held.keys() == {
    f"transformer.blocks.{i}.{name}.lora_{x}.weight"
    for i in range(layers)
    for name in ADAPTED[kind]
    for x in "AB"
  }
  assert sum(int(np.prod(x.shape)) for x in held.values()) == sum(
    x.size for path, x in paths(params).items() if ".lora." in path
  )
  assert not (folder / "merged" / FILE).exists()


def test_imported_they_are_the_same(made, tmp_path):
  _, opened, _, params, folder = made
  said = importing.bring_in(opened.config, folder / "apart", tmp_path / "run")
  assert said.endswith("parameters")  # None is fresh.
  source = exporting.open_source(
    tmp_path / "run", raw=False, apart=True, dtype="float32"
  )
  got = {path: x.read() for path, x in source.parameters.items()}
  numerics.assert_same(got, jax.device_get(paths(params)))


def test_what_peft_says_besides_is_taken(made, tmp_path):
  theirs, file = load(made, "apart"), made[-1] / "apart" / FILE
  wanted = load(made, "apart")
  wanted.add_lora(file)
  with safetensors.safe_open(file, "np") as held:
    told = json.loads(held.metadata()[METADATA])
  told |= {
    f"transformer.{name}": value
    for name, value in dict(
      peft_type="LORA",
      bias="none",
      lora_dropout=0.1,
      init_lora_weights=True,
      use_dora=False,
      rank_pattern={},
      modules_to_save=None,
    ).items()
  }
  tensors = files.open_tensors(file)
  files.write(tmp_path / FILE, tensors, {METADATA: json.dumps(told)})
  theirs.add_lora(tmp_path / FILE)
  assert_equal(theirs.state_dict(), wanted.state_dict())


@pytest.mark.parametrize(
  ("rank", "alpha", "told"),
  [
    (RANK, 48.0, {}),
    (RANK + 1, 3.0, {}),
    (RANK, 3.0, {"transformer.use_rslora": True}),
    (RANK, 3.0, None),
  ],
  ids=["alpha", "rank", "more", "nothing"],
)
def test_imported_they_count_for_what_they_did(
  made, tmp_path, rank, alpha, told
):
  _, opened, _, _, folder = made
  shutil.copytree(folder / "apart", tmp_path / "out")
  file = tmp_path / "out" / FILE
  with safetensors.safe_open(folder / "apart" / FILE, "np") as held:
    metadata = json.loads(held.metadata()[METADATA])
  files.write(
    file,
    files.open_tensors(folder / "apart" / FILE),
    {} if told is None else {METADATA: json.dumps(metadata | told)},
  )
  given = opened.config.to_dict()
  given["model"]["lora"].update(rank=rank, alpha=alpha)
  with pytest.raises(ValueError, match=r"by config\.model\.lora it") as say:
    importing.bring_in(
      ConfigDict(given).lock(), tmp_path / "out", tmp_path / "x"
    )
  said = str(say.value)
  assert said.startswith(f"{file}: {METADATA} says ") and "\n" not in said
  assert f"'transformer.r': {rank}, 'transformer.lora_alpha': {alpha}" in said
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda held, told: (held, {}), r"lacks lora_alpha, r, target_modules"),
    (
      lambda held, told: (held, told | {"transformer.alpha_pattern": {"a": 1}}),
      r"sets alpha_pattern",
    ),
    (
      lambda held, told: (held, told | {"text_encoder.r": 4}),
      r"sets text_encoder\.r",
    ),
    (
      lambda held, told: (held, told | {"transformer.use_dora": True}),
      r"sets use_dora",
    ),
    (
      lambda held, told: (dict(sorted(held.items())[1:]), told),
      r"does not fit this model in transformer\.blocks\.0\..*lora_A\.weight$",
    ),
    (
      lambda held, told: (
        {name.replace("blocks.0", "blocks.9"): x for name, x in held.items()},
        told,
      ),
      r"in transformer\.blocks\.9\.",
    ),
    (
      lambda held, told: (held, told | {"transformer.r": 1}),
      r"does not fit this model in transformer\.blocks",
    ),
  ],
  ids=[
    *("no_alpha", "pattern", "other_part", "other_kind"),
    *("half_a_pair", "no_such_layer", "rank"),
  ],
)
def test_a_file_that_does_not_fit_changes_nothing(made, tmp_path, change, says):
  theirs, file = load(made, "apart"), made[-1] / "apart" / FILE
  base = copied(theirs)
  with safetensors.safe_open(file, "np") as held:
    told = json.loads(held.metadata()[METADATA])
  tensors, told = change(files.open_tensors(file), told)
  files.write(tmp_path / FILE, tensors, {METADATA: json.dumps(told)})
  with pytest.raises(ValueError, match=says):
    theirs.add_lora(tmp_path / FILE)
  assert_equal(theirs.state_dict(), base)
