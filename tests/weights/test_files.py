import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mocha_jax.weights import files

ARRAYS = {
  "a": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
  "b": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
  "c": np.arange(4, dtype=np.int64),
  "d": np.array(3.0, np.float16),
}


@pytest.fixture
def wrapped():
  return {name: files.in_memory(x) for name, x in ARRAYS.items()}


def check(found):
  assert found.keys() == ARRAYS.keys()
  for name, want in ARRAYS.items():
    tensor = found[name]
    got = tensor.read()
    assert tensor.shape == got.shape == want.shape
    assert tensor.dtype == got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_one_file_is_read_as_it_was_written(tmp_path, wrapped):
  (file,) = files.write_sharded(tmp_path, wrapped, stem="model")
  assert file == tmp_path / "model.safetensors"
  check(files.open_tensors(file))
  check(files.open_tensors(tmp_path))
  theirs = safetensors.numpy.load_file(file)  # As others read it.
  for name, want in ARRAYS.items():
    np.testing.assert_array_equal(theirs[name], want)


def test_shards_are_read_by_their_index(tmp_path, wrapped):
  written = files.write_sharded(
    tmp_path, wrapped, stem="model", shard_bytes=100
  )
  assert [file.name for file in written] == [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
  ]
  assert json.loads(written[-1].read_text())["metadata"]["total_size"] == 142
  check(files.open_tensors(tmp_path))
  check(files.open_tensors(written[-1]))
  (tmp_path / "model_index.json").write_text("{}")
  check(files.open_tensors(tmp_path, "."))


def test_a_slice_is_that_of_the_whole(tmp_path, wrapped):
  found = files.open_tensors(files.write(tmp_path / "x.safetensors", wrapped))
  got = found["a"].read((slice(1, 2), slice(None), slice(1, 3)))
  np.testing.assert_array_equal(got, ARRAYS["a"][1:2, :, 1:3])


def test_large_tensors_are_written_in_parts(tmp_path, wrapped, monkeypatch):
  monkeypatch.setattr(files, "_PART", 16)
  check(files.open_tensors(files.write(tmp_path / "x.safetensors", wrapped)))


def test_a_tensor_can_be_written_as_another_type(tmp_path, wrapped):
  cast = {"a": files.Cast(wrapped["a"], np.dtype(ml_dtypes.bfloat16))}
  found = files.open_tensors(files.write(tmp_path / "x.safetensors", cast))
  assert found["a"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(
    found["a"].read(), ARRAYS["a"].astype(ml_dtypes.bfloat16)
  )


def test_what_is_no_checkpoint_is_refused(tmp_path, wrapped):
  with pytest.raises(FileNotFoundError, match="no such file or folder"):
    files.open_tensors(tmp_path / "nowhere")
  with pytest.raises(
    FileNotFoundError, match=r"holds no \.safetensors.*nothing"
  ):
    files.open_tensors(tmp_path)
  damaged = tmp_path / "x.safetensors"
  damaged.write_bytes(b"not at all")
  with pytest.raises(ValueError, match="no safetensors file"):
    files.open_tensors(damaged)
  with pytest.raises(ValueError, match=r"expected \.safetensors"):
    files.open_tensors(pathlib.Path(__file__))
  files.write(damaged, wrapped)
  files.write(tmp_path / "y.safetensors", wrapped)
  with pytest.raises(ValueError, match=r"x\..* and .*y\..* both hold"):
    files.open_tensors(tmp_path)
  index = tmp_path / "x.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"z": "x.safetensors"}}))
  with pytest.raises(ValueError, match="differ in"):
    files.open_tensors(tmp_path)
  for content in (
    {},
    {"weight_map": []},
    {"weight_map": {"a": 5}},
    {"weight_map": {"a": "../x.safetensors"}},
  ):
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no index"):
      files.open_tensors(tmp_path)
