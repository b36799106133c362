import json

import ml_dtypes
import numpy as np
import pytest
import torch

from mocha_jax.weights import files


@pytest.mark.parametrize(
  "dtype", [torch.float32, torch.float16, torch.bfloat16]
)
def test_tensors_of_a_pth_are_read_whole_and_in_part(tmp_path, dtype):
  tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
  torch.save({"a.weight": tensor, "b": tensor.mT}, tmp_path / "x.pth")
  found = files.open_tensors(tmp_path / "x.pth")
  want = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
  name = str(dtype).removeprefix("torch.")
  assert found["a.weight"].dtype == getattr(ml_dtypes, name, name)
  assert found["a.weight"].read().dtype == found["a.weight"].dtype
  np.testing.assert_array_equal(found["a.weight"].read(), want)
  np.testing.assert_array_equal(found["b"].read(), want.swapaxes(1, 2))
  index = (slice(1, 2), slice(0, 2))
  np.testing.assert_array_equal(found["a.weight"].read(index), want[index])


class Harmful:
  def __reduce__(self):
    return (print, ("not to be run",))


def test_what_is_no_tensor_is_not_loaded(tmp_path, capsys):
  torch.save({"a": Harmful()}, tmp_path / "x.pth")
  with pytest.raises(ValueError, match="nothing but tensors"):
    files.open_tensors(tmp_path / "x.pth")
  assert "not to be run" not in capsys.readouterr().out
  torch.save({"a": 1}, tmp_path / "x.pth")
  with pytest.raises(ValueError, match="a is a int, no tensor"):
    files.open_tensors(tmp_path / "x.pth")
  torch.save([torch.zeros(1)], tmp_path / "x.pth")
  with pytest.raises(ValueError, match="holds no tensors by name"):
    files.open_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "complex64", "uint16"])
def test_a_type_that_we_do_not_have_is_named(tmp_path, kind):
  tensor = torch.zeros(3, dtype=getattr(torch, kind))
  torch.save({"a": tensor}, tmp_path / "x.pth")
  with pytest.raises(ValueError, match=f"a is of type {kind}, not one of"):
    files.open_tensors(tmp_path / "x.pth")


def test_a_file_that_cannot_be_mapped_says_how_to_write_it(tmp_path):
  path = tmp_path / "x.bin"
  torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
  with pytest.raises(
    ValueError, match=r"no zip file.*torch\.save\(torch\.load"
  ):
    files.open_tensors(path)
  torch.save(torch.load(path, weights_only=True), path)
  np.testing.assert_array_equal(files.open_tensors(path)["a"].read(), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_trained_is_read_like_any_tensor(tmp_path, dtype):
  parameter = torch.nn.Parameter(torch.ones(2, 3, dtype=dtype))
  torch.save({"a": parameter}, tmp_path / "x.pth")
  (tensor,) = files.open_tensors(tmp_path / "x.pth").values()
  np.testing.assert_array_equal(tensor.read(), np.ones((2, 3)))


@pytest.mark.parametrize("name", ["state_dict", "model"])
def test_the_one_dict_of_tensors_in_a_file_is_taken(tmp_path, name):
  inner, path = {"a": torch.ones(2)}, tmp_path / "x.ckpt"
  torch.save({"epoch": 3, "optimizer": {"state": {}}, name: inner}, path)
  assert files.open_tensors(path).keys() == {"a"}
  torch.save({name: inner, "ema": inner}, path)
  with pytest.raises(
    ValueError, match=f"several dicts of tensors, {name}, ema"
  ):
    files.open_tensors(path)
  torch.save({name: inner, "b": torch.ones(1)}, path)
  with pytest.raises(ValueError, match=f"{name} is a dict, no tensor"):
    files.open_tensors(path)


STATE = {"a": torch.arange(3.0), "b": torch.arange(4.0)}


def write_shards(folder):
  names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
  for file, name in zip(names, STATE, strict=True):
    torch.save({name: STATE[name]}, folder / file)
  index = folder / "pytorch_model.bin.index.json"
  where = dict(zip(STATE, names, strict=True))
  index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
  return index


def assert_read(found):
  assert found.keys() == STATE.keys()
  for name, want in STATE.items():
    np.testing.assert_array_equal(found[name].read(), want.numpy())


@pytest.mark.parametrize(
  "name", ["pytorch_model.bin", "diffusion_pytorch_model.bin", "vae.pth"]
)
def test_a_folder_with_one_file_of_pytorch_is_taken(tmp_path, name):
  (tmp_path / "config.json").write_text("{}")
  torch.save(STATE, tmp_path / name)
  assert_read(files.open_tensors(tmp_path))
  (tmp_path / "pipeline" / "transformer").mkdir(parents=True)
  (tmp_path / "pipeline" / "model_index.json").write_text("{}")
  torch.save(STATE, tmp_path / "pipeline" / "transformer" / name)
  assert_read(files.open_tensors(tmp_path / "pipeline", "transformer"))


def test_shards_of_pytorch_are_read_by_their_index(tmp_path):
  index = write_shards(tmp_path)
  assert_read(files.open_tensors(tmp_path))
  assert_read(files.open_tensors(index))
  (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
  with pytest.raises(FileNotFoundError, match=r"00002\.bin: no such file"):
    files.open_tensors(tmp_path)


def test_safetensors_come_before_what_pytorch_wrote(tmp_path):
  write_shards(tmp_path)
  torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
  tensors = {name: files.in_memory(x.numpy()) for name, x in STATE.items()}
  safe = files.write(tmp_path / "model.safetensors", tensors)
  found = files.open_tensors(tmp_path)
  assert_read(found)
  assert all(isinstance(x, files.InSafetensors) for x in found.values())
  safe.unlink()
  (tmp_path / "pytorch_model.bin.index.json").unlink()
  with pytest.raises(
    ValueError, match=r"several checkpoints: name one of other\.pth, pytorch_m"
  ):
    files.open_tensors(tmp_path)


def test_a_folder_without_tensors_says_what_lies_there(tmp_path):
  for name in ("config.json", "flax_model.msgpack"):
    (tmp_path / name).touch()
  with pytest.raises(
    FileNotFoundError,
    match=r"no \.safetensors.*but config\.json, flax_model\.msgpack$",
  ):
    files.open_tensors(tmp_path)


def test_torch_reads_what_we_write(tmp_path):
  from safetensors.torch import load_file

  array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
  files.write(tmp_path / "x.safetensors", {"a": files.in_memory(array)})
  (tensor,) = load_file(tmp_path / "x.safetensors").values()
  assert tensor.dtype == torch.bfloat16
  np.testing.assert_array_equal(tensor.float().numpy(), array.astype("float32"))
