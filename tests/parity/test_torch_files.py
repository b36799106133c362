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


def test_torch_reads_what_we_write(tmp_path):
  from safetensors.torch import load_file

  array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
  files.write(tmp_path / "x.safetensors", {"a": files.in_memory(array)})
  (tensor,) = load_file(tmp_path / "x.safetensors").values()
  assert tensor.dtype == torch.bfloat16
  np.testing.assert_array_equal(tensor.float().numpy(), array.astype("float32"))
