"""Encoders that were trained elsewhere, from raw clips to a sampled one."""

from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines import encode, records
from mocha_jax import encoders, overrides, train
from mocha_jax.generation import Generator
from tests import frozen_encoders

TEXT = dict(byt5=frozen_encoders.BYT5, metaclip=frozen_encoders.CLIP)


@pytest.fixture
def config(tiny_config, tmp_path):
  """The tiny config, with wav2vec2, ByT5 and CLIP; without their weights."""
  config: Any = ConfigDict(tiny_config.to_dict())
  config.speech_encoder = frozen_encoders.WAV2VEC2
  config.text_encoder = {
    name: section | dict(cut=True) for name, section in TEXT.items()
  }
  config.model.speech.features = 24
  config.model.frozen_text = dict(byt5=16, metaclip=16)
  config.model.small_text = None
  config.data.update(root=str(tmp_path), batch_size=8)
  config.train.total_steps = 1
  return config.lock()


def test_weights_that_are_missing_are_found_before_anything_is_encoded(
  config, tiny_run, tmp_path
):
  raw = tiny_run.parents[1] / "data" / "raw"
  with pytest.raises(ValueError, match="'wav2vec2' needs its weights"):
    encode.encode(config, raw=raw)
  assert not (tmp_path / "encoded").exists()


def test_raw_clips_are_encoded_trained_on_and_sampled(
  config, tiny_run, tmp_path
):
  paths = {}
  for key, section in (
    ("speech_encoder", frozen_encoders.WAV2VEC2),
    *TEXT.items(),
  ):
    folder = tmp_path / "weights" / key
    frozen_encoders.with_weights(section, folder)
    paths[key if key == "speech_encoder" else f"text_encoder.{key}"] = folder
  overrides.apply(
    config, [f"--config.{key}.weights={path}" for key, path in paths.items()]
  )
  raw = tiny_run.parents[1] / "data" / "raw"
  encoded = encode.encode(config, raw=raw)

  given = config.to_dict()
  speech = encoders.make_speech_encoder(given["speech_encoder"])
  text = encoders.make_text_encoders(given["text_encoder"])
  record = records.read(encoded, "test")[1]
  truth = records.read(raw, "test")[1]
  want = speech(truth["speech"], sample_rate=16_000, fps=24, frames=16)
  np.testing.assert_array_equal(record["speech"], want.astype(np.float16))
  null, null_mask = encode.load_null_text(encoded)
  for name, encoder in text.items():
    features, mask = encoder(truth["prompt"])
    np.testing.assert_array_equal(record["text"][name], features)
    np.testing.assert_array_equal(record["text_mask"][name], mask)
    np.testing.assert_array_equal(null[name], encoder("")[0])
    assert null_mask[name].sum() == 1
  silent = records.read(encoded, "train_text_only")[0]
  assert not silent["speech"].any()

  run = tmp_path / "run"
  train.train(config, run)
  generator = Generator.from_run(run)
  clips = generator.generate(
    [truth["prompt"]] * 2, [truth["speech"], np.zeros(0)], seed=0
  )
  assert clips.shape == (2, 16, 64, 64, 3)
  assert all("params" not in vars(x) for x in generator._encoders)
