import pathlib
from typing import Any

import numpy as np
import pytest

from data_pipelines import provenance, records

MADE = dict(
  clip=dict(frames=81, fps=16),
  codec=dict(
    name="wan_vae", weights="vae", width=96, dtype="bfloat16", chunk=1, tile=0
  ),
  speech_encoder=dict(
    name="wav2vec2", interpolate="before", weights="ear", batch_size=8
  ),
  text_encoder=dict(
    umt5=dict(name="umt5", length=512, weights="t5", tokenizer="t.json")
  ),
)
# Of a config, what records know nothing of.
OTHER = dict(seed=0, data=dict(root="data"))


def encoded(folder: pathlib.Path, metadata: dict[str, Any]) -> pathlib.Path:
  """Write a record that says it was made so."""
  record = dict(
    name="clip",
    kind="close_up",
    prompt="A man.",
    latents=np.zeros((1, 1, 1, 1), np.float16),
    speech=np.zeros((1, 1), np.float16),
    text={"umt5": np.zeros(1, np.int32)},
    text_mask={"umt5": np.ones(1, bool)},
  )
  records.write(
    folder,
    {"test": [record]},
    kind=records.ENCODED,
    metadata=metadata,
    text={"umt5": 0},
  )
  return folder


def changed(key: str, value: Any) -> dict[str, Any]:
  """Return MADE with another value."""
  *path, last = key.split(".")

  def with_value(given, path):
    if not path:
      return given | {last: value}
    return given | {path[0]: with_value(given[path[0]], path[1:])}

  return with_value(MADE, path)


@pytest.mark.parametrize(
  ("key", "value", "said"),
  [
    ("clip.fps", 24, "clip.fps = 16, now it is 24"),
    ("codec.width", 64, "codec.width = 96, now it is 64"),
    (
      "speech_encoder.interpolate",
      "after",
      "speech_encoder.interpolate = 'before', now it is 'after'",
    ),
    (
      "text_encoder.umt5.length",
      256,
      "text_encoder.umt5.length = 512, now it is 256",
    ),
    (
      "text_encoder.umt5.tokenizer",
      "bytes",
      "text_encoder.umt5.tokenizer = 't.json', now it is 'bytes'",
    ),
  ],
)
def test_what_changes_features_is_refused_with_both_values(
  tmp_path, key, value, said
):
  folder = encoded(tmp_path, MADE)
  for check, config in (
    (provenance.check_same, changed(key, value)),
    (provenance.check_trainable, changed(key, value) | OTHER),
  ):
    with pytest.raises(ValueError, match=f"{said}: .* encode --overwrite"):
      check(folder, config)


def test_all_that_differs_is_said_at_once(tmp_path):
  config = changed("clip.fps", 24) | dict(codec=MADE["codec"] | dict(width=8))
  with pytest.raises(ValueError, match=r"fps = 16.*, codec\.width = 96"):
    provenance.check_trainable(encoded(tmp_path, MADE), config)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("codec.weights", "{}/vae.pth"),
    ("codec.chunk", 4),
    ("codec.tile", 32),
    ("speech_encoder.weights", ""),
    ("speech_encoder.batch_size", 1),
    ("text_encoder.umt5.tokenizer", "{}/t.json"),
  ],
)
def test_where_files_lie_and_how_much_is_done_at_once_may_change(
  tmp_path, key, value
):
  for name in ("vae.pth", "t.json"):
    (tmp_path / name).write_text(name)
  if isinstance(value, str):
    value = value.format(tmp_path)
  folder = encoded(tmp_path, MADE)
  provenance.check_same(folder, changed(key, value))
  provenance.check_trainable(folder, changed(key, value) | OTHER)


@pytest.mark.parametrize("there", [None, "empty", "empty/config.json"])
def test_another_path_must_hold_something(tmp_path, there):
  folder = encoded(tmp_path / "encoded", MADE)
  if there:
    (tmp_path / "empty").mkdir()
  if there == "empty/config.json":
    (tmp_path / there).write_text("{}")
  for key in ("codec.weights", "text_encoder.umt5.weights"):
    config = changed(key, str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=rf"{key} = '.*/empty': nothing to en"):
      provenance.check_same(folder, config)
    provenance.check_trainable(folder, config | OTHER)


@pytest.mark.parametrize("place", ["vae.pth", "vae/a.safetensors"])
def test_other_weights_under_the_same_path_are_noticed(tmp_path, place):
  """A file; or a whole pipeline, of which the codec opens one folder."""
  file = tmp_path / place
  file.parent.mkdir(exist_ok=True)
  file.write_bytes(b"1")
  named = file
  if place != "vae.pth":
    (tmp_path / "model_index.json").write_text("{}")
    named = tmp_path
  made = changed("codec.weights", str(named))
  digests = provenance.digests(made)
  assert [*digests] == ["codec.weights"]
  folder = encoded(tmp_path / "encoded", made | {provenance.DIGESTS: digests})
  provenance.check_same(folder, made)
  file.write_bytes(b"2")
  with pytest.raises(ValueError, match=r"codec\.weights = .*where other files"):
    provenance.check_same(folder, made)
  file.unlink()
  provenance.check_same(folder, made)  # What is not there says nothing.


def test_types_of_computation_may_change_for_training_alone(tmp_path):
  folder = encoded(tmp_path, MADE)
  config = changed("codec.dtype", "float32")
  provenance.check_trainable(folder, config | OTHER)
  with pytest.raises(ValueError, match=r"codec\.dtype = 'bfloat16', now"):
    provenance.check_same(folder, config)


def test_records_that_do_not_say_how_they_were_made_can_be_trained_on(tmp_path):
  provenance.check_trainable(encoded(tmp_path / "none", {}), MADE | OTHER)
  part = encoded(tmp_path / "part", {"clip": MADE["clip"]})
  provenance.check_trainable(part, changed("codec.width", 8) | OTHER)
  with pytest.raises(ValueError, match=r"clip\.fps = 16, now it is 24"):
    provenance.check_trainable(part, changed("clip.fps", 24) | OTHER)
  with pytest.raises(ValueError, match=r"codec\.width = \(absent\), now"):
    provenance.check_same(part, MADE)


@pytest.mark.parametrize(
  ("named", "held"),
  [
    ("w.pth", "w.pth"),
    ("model.safetensors.index.json", "model-1.safetensors"),
    (".", "model.safetensors"),
    (".", "pytorch_model.bin"),
  ],
)
def test_weights_are_told_apart_by_their_bytes_not_their_paths(
  tmp_path, named, held
):
  def write(place: str, content: bytes) -> dict[str, Any]:
    folder = tmp_path / place
    folder.mkdir()
    (folder / held).write_bytes(content)
    return changed("speech_encoder.weights", str(folder / named))

  made, same, other = write("a", b"1"), write("b", b"1"), write("c", b"2")
  digests = provenance.digests(made)
  assert [*digests] == ["speech_encoder.weights"]
  folder = encoded(tmp_path / "encoded", made | {provenance.DIGESTS: digests})
  provenance.check_same(folder, same)
  with pytest.raises(ValueError, match=r"speech_encoder\.weights = .*, now it"):
    provenance.check_same(folder, other)
  provenance.check_trainable(folder, other | OTHER)
  (tmp_path / "c" / held).unlink()
  with pytest.raises(ValueError, match="nothing to encode with is there"):
    provenance.check_same(folder, other)
