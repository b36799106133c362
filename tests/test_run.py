"""What a run folder accepts when training opens it again."""

import pathlib
from typing import Any

import pytest

from mocha_jax import codecs, run
from mocha_jax import config as configs
from tests import wan_vae_files

CHANGED = {
  "codec.weights": "elsewhere/vae",
  "codec.chunk": 4,
  "codec.tile": 8,
  "speech_encoder.weights": "elsewhere/ear",
  "speech_encoder.batch_size": 1,
  "text_encoder.weights": "elsewhere/t5",
  "text_encoder.tokenizer": "elsewhere/t.json",
  "text_encoder.batch_size": 1,
}


def make_config(**changes: Any) -> Any:
  config: Any = configs.load("mocha_wan_1_3b").copy_and_resolve_references()
  config.codec.update(width=wan_vae_files.WIDTH)
  config.text_encoder.tokenizer = "t.json"
  config.update_from_flattened_dict(changes)
  return config


def save_codec(folder: pathlib.Path, *, seed=0, **changes: Any) -> pathlib.Path:
  """Write a small codec.npz, as `mocha data encode` does."""
  folder.mkdir()
  weights = wan_vae_files.write(
    folder / "vae.safetensors", wan_vae_files.make_params(seed), "released"
  )
  config = wan_vae_files.make_config(weights, **changes)
  codecs.fit(config, []).save(folder / "codec.npz")
  return folder / "codec.npz"


@pytest.fixture(params=["imported", "begun"])
def kind(request) -> str:
  return request.param


@pytest.fixture
def opened(tmp_path, kind) -> run.Run:
  """A run of a codec of its own, with a checkpoint that holds nothing."""
  made = run.create(
    tmp_path / "run", make_config(), save_codec(tmp_path / "first")
  )
  saved = "0/params" if kind == "imported" else "3/opt_state"
  (made.checkpoints / saved).mkdir(parents=True)
  assert made.is_imported == (kind == "imported")
  return made


@pytest.mark.parametrize(
  "changes", [dict(chunk=4), dict(tile=8), dict(dtype="bfloat16")]
)
def test_a_codec_that_is_computed_otherwise_is_the_same(
  opened, tmp_path, changes
):
  there = save_codec(tmp_path / "data", **changes)
  made = run.create(opened.folder, opened.config, there)
  for key, value in changes.items():
    assert getattr(made.codec().config, key) == value


def test_a_codec_with_other_weights_is_taken_before_the_first_step_alone(
  opened, tmp_path, kind, capsys
):
  there = save_codec(tmp_path / "data", seed=1)
  own = opened.folder / "codec.npz"
  if kind == "imported":
    run.create(opened.folder, opened.config, there)
    assert own.read_bytes() == there.read_bytes()
    assert f"{there} takes the place of the codec" in capsys.readouterr().out
  else:
    with pytest.raises(ValueError, match="the data were made anew"):
      run.create(opened.folder, opened.config, there)
    assert own.read_bytes() != there.read_bytes()


@pytest.mark.parametrize("key", CHANGED)
def test_where_files_lie_and_how_much_is_done_at_once_may_change(opened, key):
  config = make_config(**{key: CHANGED[key]})
  assert configs.difference(opened.config, config)
  run.create(opened.folder, config, opened.folder / "codec.npz")
  now = run.open_run(opened.folder).config
  assert not configs.difference(now, config)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("codec.width", 96),
    ("codec.dtype", "float32"),
    ("text_encoder.tokenizer", "bytes"),
    ("text_encoder.length", 8),
    ("data.batch_size", 3),
  ],
)
def test_what_decides_the_result_may_change_before_the_first_step_alone(
  opened, kind, key, value
):
  config = make_config(**{key: value})
  codec = opened.folder / "codec.npz"
  if kind == "imported":
    assert not configs.difference(
      run.create(opened.folder, config, codec).config, config
    )
  else:
    with pytest.raises(ValueError, match=rf"config\.{key} = .*not {value!r};"):
      run.create(opened.folder, config, codec)
