import numpy as np
import pytest

from data_pipelines import inspect, records


def encoded(name):
  return dict(
    name=name,
    kind="close_up",
    prompt="A man.",
    latents=np.full((2, 3, 4, 5), 0.5, np.float16),
    speech=np.zeros((8, 6), np.float16),
    text={"ids": np.arange(4, dtype=np.int32)},
    text_mask={"ids": np.arange(4) < 2},
  )


def test_folder_says_its_splits_its_metadata_and_its_shapes(tmp_path):
  records.write(
    tmp_path / "encoded",
    {"test": [encoded("a")], "train_close_up": map(encoded, "bcd")},
    kind="encoded",
    metadata={"seed": 7},
    text={"ids": 0},
  )
  text = inspect.describe(tmp_path)
  assert f"{tmp_path / 'encoded'}: 4 encoded records" in text
  assert "train_close_up: 3" in text
  assert "seed: 7" in text
  assert "float16 [2x3x4x5], 0.5 to 0.5" in text
  assert "ids: int32 [4], 0 to 3" in text
  assert inspect.describe(tmp_path / "encoded") == text


def test_folder_without_records_is_refused_by_name(tmp_path):
  with pytest.raises(ValueError, match=r"no records in .*nowhere"):
    inspect.describe(tmp_path / "nowhere")
