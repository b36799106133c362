import json
import re
import resource
import shutil
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines import encode, records, sources
from experiments import _base
from mocha_jax import codecs, encoders

FRAMES, HEIGHT, WIDTH = 8, 16, 24
CLIP = dict(
  frames=FRAMES, fps=24, height=HEIGHT, width=WIDTH, sample_rate=16_000
)


def make_config(root) -> Any:
  config: Any = _base.get_config()
  config.clip = ConfigDict(CLIP)
  config.codec.channels = 6
  config.text_encoder.length = 12
  config.data.root = str(root)
  return config


def raw_record(index, *, frames=FRAMES, speech=True, prompt="A man in red."):
  rng = np.random.default_rng(index)
  steps = rng.integers(-9, 9, (frames, HEIGHT, WIDTH, 3)).cumsum(0)
  samples = round(frames / 24 * 16_000) if speech else 0
  return dict(
    name=f"clip_{index:03d}",
    kind="close_up" if speech else "text_only",
    prompt=prompt,
    frames=(128 + steps).clip(0, 255).astype(np.uint8),
    speech=rng.normal(size=samples).astype(np.float32) / 9,
    mouth=np.zeros((1, frames), np.float32),
    viseme=np.zeros((1, frames), np.uint8),
    visible=np.ones((1, frames), bool),
    speaker=np.zeros(frames, np.int32),
    cuts=np.zeros(0, np.int32),
    attributes=json.dumps([{"hair": "red"}]),
  )


def make_raw(root, **metadata):
  records.write(
    root / "raw",
    {
      "train_close_up": [raw_record(i) for i in range(12)],
      "train_text_only": [raw_record(i, speech=False) for i in range(12, 16)],
      "test": [raw_record(i) for i in range(20, 23)],
    },
    kind="raw",
    metadata=metadata,
  )


@pytest.fixture(scope="module")
def encoded_root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  make_raw(root, clip=CLIP, seed=0)
  assert encode.encode(make_config(root)) == root / "encoded"
  return root


def test_nothing_but_the_folder_is_said_where_no_terminal_is(
  encoded_root, tmp_path, capsys
):
  config = make_config(encoded_root)
  encode.encode(config, encoded=tmp_path / "encoded")
  encode.encode(config, encoded=tmp_path / "encoded")
  out = f"{tmp_path / 'encoded'}"
  assert capsys.readouterr().out == f"wrote {out}\n{out} is up to date\n"


def test_every_split_is_encoded(encoded_root):
  folder = encoded_root / "encoded"
  assert records.kind(folder) == "encoded"
  assert records.splits(folder) == records.splits(encoded_root / "raw")


def test_encoded_record_is_what_the_encoders_make_of_the_raw_one(encoded_root):
  config = make_config(encoded_root)
  codec = codecs.load(encoded_root / "encoded" / encode.CODEC)
  speech_encoder = encoders.make_speech_encoder(config.speech_encoder)
  text_encoder = encoders.make_text_encoders(config.text_encoder)["small_text"]
  clips = list(sources.test_clips(encoded_root, "test"))
  assert len(clips) == 3
  for clip, truth in clips:
    assert (clip["name"], clip["kind"]) == (truth["name"], "close_up")
    np.testing.assert_array_equal(
      clip["latents"], codec.encode(truth["frames"]).astype(np.float16)
    )
    speech = speech_encoder(
      truth["speech"], sample_rate=16_000, fps=24, frames=FRAMES
    )
    np.testing.assert_array_equal(clip["speech"], speech.astype(np.float16))
    ids, mask = text_encoder(truth["prompt"])
    np.testing.assert_array_equal(clip["text"]["small_text"], ids)
    np.testing.assert_array_equal(clip["text_mask"]["small_text"], mask)


def test_clip_without_speech_has_zero_speech_and_silence_has_not(encoded_root):
  silent = records.read(encoded_root / "encoded", "train_text_only")
  spoken = records.read(encoded_root / "encoded", "train_close_up")
  assert all((clip["speech"] == 0).all() for clip in silent)
  assert all((clip["speech"] != 0).any(1).all() for clip in spoken)
  assert {clip["speech"].shape for clip in (*silent, *spoken)} == {(8, 128)}


def test_empty_prompt_is_kept_beside_the_records(encoded_root):
  text, masks = encode.load_null_text(encoded_root / "encoded")
  assert text["small_text"].shape == masks["small_text"].shape == (12,)
  assert masks["small_text"].sum() == 1
  with pytest.raises(ValueError, match="no encoding of the empty prompt"):
    encode.load_null_text(encoded_root)


def test_codec_has_seen_no_test_clip(encoded_root, tmp_path):
  """Other test clips change nothing in what is learned from training ones."""
  config = make_config(tmp_path)
  raw = encoded_root / "raw"
  splits = {s: list(records.read(raw, s)) for s in records.splits(raw)}
  splits["test"] = [raw_record(99)]
  records.write(tmp_path / "raw", splits, kind="raw", metadata={})
  ours = encode.load_codec(encode.encode(config))
  theirs = encode.load_codec(encoded_root / "encoded")
  frames = splits["test"][0]["frames"]
  np.testing.assert_array_equal(ours.encode(frames), theirs.encode(frames))


def test_beam_encodes_the_same(encoded_root, tmp_path):
  pytest.importorskip("apache_beam")
  plain = encoded_root / "encoded"
  encode.encode(make_config(encoded_root), encoded=tmp_path, beam_flags=[])
  assert records.metadata(tmp_path) == records.metadata(plain)
  for split in records.splits(plain):
    pairs = zip(
      records.read(tmp_path, split), records.read(plain, split), strict=True
    )
    for got, want in pairs:
      assert got["name"] == want["name"]
      np.testing.assert_array_equal(got["latents"], want["latents"])
      np.testing.assert_array_equal(got["speech"], want["speech"])


def test_records_that_are_there_are_kept(encoded_root, capsys):
  folder = encoded_root / "encoded"
  before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
  encode.encode(make_config(encoded_root))
  assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
  assert f"{folder} is up to date" in capsys.readouterr().out


def test_records_of_another_config_are_refused_naming_the_key(tmp_path):
  make_raw(tmp_path)
  config = make_config(tmp_path)
  encode.encode(config)
  config.speech_encoder.mels = 8
  with pytest.raises(ValueError, match=r"speech_encoder.mels = 32, now .* 8"):
    encode.encode(config)
  encode.encode(config, overwrite=True)
  clip, _ = next(sources.test_clips(tmp_path, "test"))
  assert clip["speech"].shape == (FRAMES, 32)


def test_new_raw_records_are_noticed(tmp_path):
  make_raw(tmp_path, seed=0)
  config = make_config(tmp_path)
  encode.encode(config)
  shutil.rmtree(tmp_path / "raw")
  make_raw(tmp_path, seed=1)
  with pytest.raises(ValueError, match=r"raw.metadata.seed = 0, now it is 1"):
    encode.encode(config)


def test_clips_of_another_size_are_refused_by_name(tmp_path):
  records.write(
    tmp_path / "raw",
    {"train_close_up": [raw_record(0), raw_record(1, frames=4)]},
    kind="raw",
    metadata={},
  )
  message = re.escape("frames are [4, 16, 24, 3]; config.clip wants [8, 16,")
  with pytest.raises(ValueError, match=f"record 'clip_001' of .*{message}"):
    encode.encode(make_config(tmp_path))
  assert not records.exists(tmp_path / "encoded")


def test_raw_records_of_another_clip_format_are_refused(encoded_root):
  config = make_config(encoded_root)
  config.clip.fps = 25
  with pytest.raises(ValueError, match=r"config.clip.fps = 25, .* have 24"):
    encode.encode(config)


def test_long_prompt_is_refused_by_name_before_anything_is_encoded(
  tmp_path, monkeypatch
):
  records.write(
    tmp_path / "raw",
    {
      "train_close_up": [raw_record(0)],
      "train_medium": [raw_record(1, prompt="a " * 12)],
    },
    kind="raw",
    metadata={},
  )
  monkeypatch.delattr(codecs, "fit")
  with pytest.raises(ValueError, match=r"'clip_001' .* limit is 12"):
    encode.encode(make_config(tmp_path))
  assert not (tmp_path / "encoded").exists()


@pytest.mark.parametrize("most", [1_000, 60_000])
def test_records_stay_until_there_are_new_ones(tmp_path, most):
  """A disk that is full, for the codec's file or for the records."""
  make_raw(tmp_path)
  config = make_config(tmp_path)
  config.speech_encoder.mels = 8
  folder = encode.encode(config)
  before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
  config.speech_encoder.mels = 128
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
  try:
    with pytest.raises(OSError) as caught:
      encode.encode(config, overwrite=True)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert str(folder) in str(caught.value)
  after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
  assert after == before
  assert {p.name for p in folder.iterdir()} == {
    "clips",
    encode.CODEC,
    encode.NULL_TEXT,
  }


def test_missing_or_wrong_raw_records_are_refused(encoded_root, tmp_path):
  config = make_config(tmp_path)
  with pytest.raises(ValueError, match=r"no records in .*raw"):
    encode.encode(config)
  with pytest.raises(ValueError, match="holds encoded records, not raw"):
    encode.encode(config, raw=encoded_root / "encoded")
  test_alone = {"test": [raw_record(0)]}
  records.write(tmp_path / "raw", test_alone, kind="raw", metadata={})
  with pytest.raises(ValueError, match=r"no training split .* it has test"):
    encode.encode(config)


def test_records_that_were_never_encoded_are_asked_to_be(tmp_path):
  make_raw(tmp_path)
  missing = tmp_path / "encoded"
  with pytest.raises(ValueError) as error:
    records.splits(missing)
  assert str(error.value) == (
    f"no records in {missing}; there are some in {tmp_path / 'raw'}: run "
    "`mocha data encode`"
  )


def test_raw_clips_must_be_those_that_were_encoded(encoded_root, tmp_path):
  for part, name in (("raw", "other"), ("encoded", None)):
    kept = list(records.read(encoded_root / part, "test"))
    if name:
      kept[0]["name"] = name
    records.write(
      tmp_path / part,
      {"test": kept},
      kind=part,
      metadata={},
      text={"small_text": 0},
    )
  with pytest.raises(ValueError, match="encode them again"):
    list(sources.test_clips(tmp_path, "test"))
