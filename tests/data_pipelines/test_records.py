import json
import pickle
import tempfile

import grain
import numpy as np
import pytest

from data_pipelines import records


def raw_record(index, *, frames=8, persons=2):
  rng = np.random.default_rng(index)
  return dict(
    name=f"clip_{index:03d}",
    kind="close_up",
    prompt=f"Ein Mädchen sagt {index}.",
    frames=rng.integers(0, 255, (frames, 16, 24, 3), np.uint8),
    speech=rng.normal(size=100 * (index % 2)).astype(np.float32),
    mouth=rng.random((persons, frames), np.float32),
    viseme=rng.integers(0, 7, (persons, frames), np.uint8),
    visible=np.ones((persons, frames), bool),
    speaker=np.zeros(frames, np.int32),
    cuts=np.arange(index % 2, dtype=np.int32),
    attributes=json.dumps([{"hair": "red"}] * persons),
  )


def encoded_record(index):
  rng = np.random.default_rng(index)
  return dict(
    name=f"clip_{index:03d}",
    kind="close_up",
    prompt="A man.",
    latents=rng.normal(size=(2, 3, 4, 5)).astype(np.float16),
    speech=np.zeros((8, 6), np.float16),
    text={"ids": np.arange(4, dtype=np.int32), "t5": np.ones((4, 3), "f4")},
    text_mask={"ids": np.arange(4) < 2, "t5": np.ones(4, bool)},
  )


def by_name(source):
  return {record["name"]: record for record in source}


def assert_same(got, want):
  assert got.keys() == want.keys()
  for key, value in want.items():
    if isinstance(value, dict):
      assert_same(got[key], value)
    elif isinstance(value, str):
      assert got[key] == value
    else:
      assert got[key].dtype == value.dtype
      np.testing.assert_array_equal(got[key], value)


@pytest.mark.parametrize("persons", [0, 1, 2])
def test_raw_records_come_back_as_they_were(tmp_path, persons):
  made = [raw_record(i, persons=persons) for i in range(5)]
  splits = {"train_close_up": iter(made[:3]), "test": made[3:]}
  records.write(tmp_path, splits, kind="raw", metadata={"seed": [1, "é"]})
  assert records.splits(tmp_path) == {"test": 2, "train_close_up": 3}
  assert records.metadata(tmp_path) == {"seed": [1, "é"]}
  assert records.kind(tmp_path) == "raw"
  got = by_name(records.read(tmp_path, "train_close_up"))
  assert len(got) == 3
  for record in made[:3]:
    assert_same(got[record["name"]], record)


def test_encoded_records_come_back_as_they_were(tmp_path):
  made = [encoded_record(i) for i in range(3)]
  text = {"ids": 0, "t5": 3}
  records.write(
    tmp_path, {"test": made}, kind="encoded", metadata={}, text=text
  )
  got = by_name(records.read(tmp_path, "test"))
  for record in made:
    assert_same(got[record["name"]], record)


def test_raw_and_encoded_stand_in_the_same_order(tmp_path):
  count = 20
  raw = {"test": [raw_record(i) for i in range(count)]}
  encoded = {"test": [encoded_record(i) for i in reversed(range(count))]}
  records.write(tmp_path / "a", raw, kind="raw", metadata={}, shards=3)
  records.write(
    tmp_path / "b", encoded, kind="encoded", metadata={}, text=dict(ids=0, t5=3)
  )
  names = [
    [record["name"] for record in records.read(tmp_path / part, "test")]
    for part in "ab"
  ]
  assert names[0] == names[1]
  assert names[0] != sorted(names[0])


def test_shards_are_as_many_as_asked(tmp_path):
  made = [raw_record(i) for i in range(6)]
  records.write(tmp_path, {"test": made}, kind="raw", metadata={}, shards=3)
  assert len(list(tmp_path.glob("clips/*/*.array_record-*"))) == 3
  assert len(by_name(records.read(tmp_path, "test"))) == 6


def test_source_survives_pickling_and_feeds_grain(tmp_path):
  made = [raw_record(i) for i in range(3)]
  records.write(tmp_path, {"test": made}, kind="raw", metadata={})
  source = records.read(tmp_path, "test")
  assert len(source) == 3
  copied = pickle.loads(pickle.dumps(source))
  assert len(pickle.dumps(source)) < 1000
  for index, record in enumerate(grain.MapDataset.source(copied)):
    assert_same(record, source[index])


def test_beam_writes_what_a_generator_writes(tmp_path):
  beam = pytest.importorskip("apache_beam")
  indices = range(8)
  plain = {"test": [raw_record(i) for i in indices]}
  records.write(tmp_path / "a", plain, kind="raw", metadata={})
  parallel = {"test": beam.Create(indices) | beam.Map(raw_record)}
  records.write(tmp_path / "b", parallel, kind="raw", metadata={})
  a, b = (records.read(tmp_path / part, "test") for part in "ab")
  assert len(a) == len(b) == len(indices)
  for got, want in zip(b, a, strict=True):
    assert_same(got, want)


def test_missing_folder_names_those_that_exist(tmp_path):
  made = {"test": [raw_record(0)]}
  records.write(tmp_path / "raw", made, kind="raw", metadata={})
  with pytest.raises(ValueError, match=r"no records in .*/rwa; .*/raw$"):
    records.read(tmp_path / "rwa", "test")
  with pytest.raises(ValueError, match="/nowhere does not exist"):
    records.read(tmp_path / "nowhere" / "raw", "test")
  with pytest.raises(ValueError, match=r"no split 'tset' in .*; it has test$"):
    records.read(tmp_path / "raw", "tset")


def test_existing_records_are_not_overwritten(tmp_path):
  made = {"test": [raw_record(0)]}
  records.write(tmp_path, made, kind="raw", metadata={})
  with pytest.raises(ValueError, match="already holds records"):
    records.write(tmp_path, made, kind="raw", metadata={})
  assert [clip["name"] for clip in records.read(tmp_path, "test")] == [
    "clip_000"
  ]


def test_two_records_of_one_name_are_refused(tmp_path):
  made = {"test": [raw_record(0), raw_record(0)]}
  with pytest.raises(ValueError, match="share the name 'clip_000'"):
    records.write(tmp_path, made, kind="raw", metadata={})


def test_failure_leaves_no_records(tmp_path):
  def broken():
    yield raw_record(0)
    raise ValueError("clip 1 is broken")

  with pytest.raises(ValueError, match="clip 1 is broken"):
    records.write(tmp_path, {"test": broken()}, kind="raw", metadata={})
  assert not records.exists(tmp_path)


def test_nothing_is_left_elsewhere(tmp_path, monkeypatch):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
  folder = tmp_path / "raw"
  records.write(folder, {"test": [raw_record(0)]}, kind="raw", metadata={})
  assert len(records.read(folder, "test")) == 1
  assert not [*elsewhere.iterdir()]


def test_writing_and_reading_print_nothing(tmp_path, capfd):
  made = [raw_record(i) for i in range(3)]
  records.write(tmp_path, {"test": made}, kind="raw", metadata={})
  list(records.read(tmp_path, "test"))
  out, err = capfd.readouterr()
  assert out == err == ""
