"""A codec that was trained elsewhere, from raw clips to a sampled mp4."""

import json
from typing import Any

import numpy as np
import pytest

from data_pipelines import encode, records
from experiments import _codecs
from mocha_jax import importing, media, run, sampling, train
from tests import numerics, tiny, wan_vae_files

FRAMES, HEIGHT, WIDTH = 5, 16, 32


def make_config(root, weights) -> Any:
  config: Any = tiny.get_config()
  _codecs.use_wan_vae(config)
  config.codec.update(
    weights=str(weights), width=wan_vae_files.WIDTH, dtype="float32"
  )
  config.clip.update(frames=FRAMES, height=HEIGHT, width=WIDTH)
  config.data.root = str(root)
  config.data.stages = (dict(steps=1, weights=dict(close_up=1.0)),)
  config.model.update(max_frames=2, max_rows=1, max_columns=2)
  config.model.update(width=96, heads=3)  # A token has 2 x 2 x 16 numbers.
  config.data.batch_size = 8
  config.train.total_steps = 1
  return config


def raw_record(index) -> records.Record:
  rng = np.random.default_rng(index)
  return dict(
    name=f"clip_{index}",
    kind="close_up",
    prompt="A man in red.",
    frames=rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8),
    speech=rng.normal(size=FRAMES * 16_000 // 24).astype(np.float32) / 9,
    mouth=np.zeros((1, FRAMES), np.float32),
    viseme=np.zeros((1, FRAMES), np.uint8),
    visible=np.ones((1, FRAMES), bool),
    speaker=np.zeros(FRAMES, np.int32),
    cuts=np.zeros(0, np.int32),
    attributes=json.dumps([{"hair": "red"}]),
  )


def test_clips_are_encoded_trained_on_and_sampled_without_the_weights_file(
  tmp_path,
):
  params = wan_vae_files.make_params()
  weights = tmp_path / "vae.safetensors"
  wan_vae_files.write(weights, params, "diffusers")
  clips = [raw_record(index) for index in range(3)]
  splits = {"train_close_up": clips[:2], "test": clips[2:]}
  records.write(tmp_path / "raw", splits, kind="raw", metadata={})

  config = make_config(tmp_path, weights)
  encoded = encode.encode(config)
  weights.unlink()
  with pytest.raises(ValueError, match=r"vae\.safetensors"):
    encode.encode(config, overwrite=True)
  (record,) = records.read(encoded, "test")
  codec = encode.load_codec(encoded)
  latents = codec.encode(clips[2]["frames"])
  assert latents.shape == (2, 2, 4, 16)
  np.testing.assert_array_equal(record["latents"], latents.astype(np.float16))

  folder = tmp_path / "run"
  train.train(config, folder)
  opened: Any = run.open_run(folder).codec()
  numerics.assert_same(opened.params, params)
  wish = sampling.Wish("A man in red.", None, tmp_path / "clip.mp4")
  sampling.sample(folder, [wish], seed=0, frames=None, changes={})
  assert media.read_video(wish.out).frames.shape == (FRAMES, HEIGHT, WIDTH, 3)


def test_pipeline_that_is_imported_brings_its_codec(tmp_path):
  params = wan_vae_files.make_params()
  (tmp_path / "vae").mkdir()
  wan_vae_files.write(tmp_path / "vae" / "a.safetensors", params, "diffusers")
  (tmp_path / "model_index.json").write_text("{}")
  config = make_config(tmp_path / "data", "")
  importing._bring_codec(config, tmp_path, tmp_path)
  opened: Any = run.Run(tmp_path, config).codec()
  numerics.assert_same(opened.params, params)
