import csv
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from data_pipelines import ingest, records
from mocha_jax import media, resampling
from tests import media_files
from tests.media_files import KINDS, Media

CLIP = media.ClipFormat(48, 24, 32, 48, 16_000)
WHOLE = dict(KINDS) | {"half/long.mp4": Media(frames=120)}


def run(folder, captions, tmp_path, **options):
  summary = ingest.ingest(
    folder,
    captions,
    clip=CLIP,
    directory=tmp_path / "raw",
    options=ingest.IngestConfig(**options),
  )
  return summary, {
    record["name"]: record
    for split in summary.records
    for record in records.read(tmp_path / "raw", split)
  }


def caption(folder: pathlib.Path, rows: dict[str, str]) -> pathlib.Path:
  path = folder / "captions.csv"
  lines = [f'{clip},"{prompt}"\n' for clip, prompt in rows.items()]
  path.write_text("clip,prompt\n" + "".join(lines))
  return path


def refusals(summary) -> dict[str, set[str]]:
  return {reason: set(clips) for reason, clips in summary.refused.items()}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  """A folder with a clip of every kind, all whole."""
  folder = tmp_path_factory.mktemp("good")
  (folder / "half").mkdir()
  for name, kind in WHOLE.items():
    media_files.write(folder / name, kind)
  return folder


@pytest.fixture(scope="module")
def ingested(good, tmp_path_factory):
  prompts = {name: f"A flash of {name}." for name in WHOLE}
  tmp_path = tmp_path_factory.mktemp("ingested")
  return run(good, caption(good, prompts), tmp_path)


class TestTaken:
  def test_nothing_whole_is_refused(self, ingested):
    summary, taken = ingested
    assert not summary.refused and not summary.remarks
    assert summary.records == {"train_close_up": len(WHOLE)}
    # Two files that differ in their suffix alone keep it.
    named = {"hevc", "mpeg4.mp4", "mpeg4.mov", "half/long"}
    assert named < set(taken) and "mpeg4" not in taken

  def test_every_record_has_the_format_and_no_people(self, ingested):
    for record in ingested[1].values():
      assert record["frames"].shape == (48, 32, 48, 3)
      assert record["frames"].dtype == np.uint8
      assert record["speech"].shape == (32_000,)
      assert record["mouth"].shape == (0, 48)
      assert set(record["speaker"]) == {-1} and not len(record["cuts"])
      assert record["prompt"].startswith("A flash of")
      assert record["attributes"] == "[]" and record["kind"] == "close_up"

  def test_click_and_flash_coincide(self, ingested):
    for name, record in ingested[1].items():
      flash = int(np.argmax(record["frames"].mean((1, 2, 3))))
      click = int(np.argmax(np.abs(record["speech"])))
      apart = click / CLIP.sample_rate - flash / CLIP.fps
      assert abs(apart) <= 0.5 / CLIP.fps, name
      (kind,) = (WHOLE[n] for n in WHOLE if n.startswith(name))
      wanted = media_files.click(kind, CLIP.sample_rate)
      assert abs(media.measure_lag(record["speech"], wanted)) <= 1, name

  def test_summary_lies_beside_the_records(self, ingested):
    summary = ingested[0]
    directory = pathlib.Path(summary.directory)
    assert records.metadata(directory)["clip"] == dataclasses.asdict(CLIP)
    saved = json.loads((directory / "ingest.json").read_text())
    assert saved == dataclasses.asdict(summary)
    assert sorted(p.name for p in directory.iterdir()) == [
      "clips",
      "ingest.json",
    ]

  def test_never_writes_over_records(self, good, ingested):
    directory = pathlib.Path(ingested[0].directory)
    with pytest.raises(ValueError, match="already holds records"):
      run(good, good / "captions.csv", directory.parent)


@pytest.fixture(scope="module")
def outcome(good, tmp_path_factory):
  """What became of a folder in which most clips are no use."""
  folder = tmp_path_factory.mktemp("mixed")
  tmp_path = tmp_path_factory.mktemp("out")
  for name in ("h264.mp4", "mpeg1.mpg"):
    shutil.copy(good / name, folder)
  for name in ("hevc.mp4", "mpeg2.mpg", "mpeg4.mov"):
    data = (good / name).read_bytes()
    (folder / f"cut_{name}").write_bytes(data[: len(data) // 2])
    (folder / f"zeros_{name}").write_bytes(
      data[: len(data) // 3] + bytes(8192) + data[len(data) // 3 + 8192 :]
    )
  (folder / "text.mp4").write_text("no video\n" * 99)
  (folder / "empty.mov").write_bytes(b"")
  media_files.write(folder / "short.mp4", Media(frames=47))
  media_files.write(folder / "mute.mp4", Media(sound=None))
  media_files.write(folder / "silent.mp4", Media(level=0))
  media_files.write(folder / "nobody.mp4", Media())
  media_files.write(folder / "stranger.mp4", Media())
  media_files.write(folder / "uncaptioned.mp4", Media())
  names = [p.name for p in folder.iterdir() if p.stem != "uncaptioned"]
  rows = dict.fromkeys([*names, "lost.mp4"], "A flash.")
  rows |= {"nobody.mp4": "", "stranger.mp4": "Person7 sings."}
  return run(folder, caption(folder, rows), tmp_path)


class TestRefused:
  def test_by_name_with_the_reason(self, outcome):
    assert refusals(outcome[0]) == {
      "broken": {
        *(
          f"{a}_{b}"
          for a in ("cut", "zeros")
          for b in ("hevc", "mpeg2", "mpeg4")
        ),
        "text",
        "empty",
      },
      "silent": {"silent"},
      "soundless": {"mute"},
      "too short": {"short"},
      "no caption": {"nobody", "uncaptioned"},
      "bad caption": {"stranger"},
    }

  def test_the_others_go_through(self, outcome):
    assert set(outcome[1]) == {"h264", "mpeg1"}

  def test_the_table_names_and_counts_them(self, outcome):
    table = str(outcome[0])
    assert "2 records" in table and "14 clips refused" in table
    assert "47 pictures at 24 per second, 48 needed" in table
    assert "names Person7, whom it never describes" in table
    assert outcome[0].unused_captions == ["lost.mp4"]
    assert "captions without a clip          1\n    lost.mp4" in table

  def test_of_all_leaves_a_summary_and_no_records(self, tmp_path):
    media_files.write(tmp_path / "mute.mp4", Media(sound=None))
    captions = caption(tmp_path, {"mute": "A flash."})
    summary, taken = run(tmp_path, captions, tmp_path)
    assert not taken and refusals(summary) == {"soundless": {"mute"}}
    assert not records.exists(tmp_path / "raw")
    assert (tmp_path / "raw" / "ingest.json").exists()

  def test_a_folder_without_clips_is_an_error(self, tmp_path):
    captions = caption(tmp_path, {"a": "A flash."})
    with pytest.raises(ValueError, match="holds no clip"):
      run(tmp_path, captions, tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
      run(tmp_path / "none", captions, tmp_path)


def test_files_that_captions_name_but_that_are_not_read_are_said(tmp_path):
  media_files.write(tmp_path / "a.mp4", Media(sound=None))
  (tmp_path / "b.mkv").touch()
  (tmp_path / "c.webm").touch()
  (tmp_path / "nobody_asks.mkv").touch()
  names = ["a", "b.mkv", "c", *(f"lost_{i}" for i in range(4))]
  captions = caption(tmp_path, dict.fromkeys(names, "A flash."))
  summary, _ = run(tmp_path, captions, tmp_path)
  assert summary.unused_captions == names[1:]
  assert set(summary.remarks) == {"b.mkv", "c.webm"}
  assert "  b.mkv: no clip, whose names end in .mp4, .m4v" in str(summary)
  assert "    b.mkv, c, lost_0, lost_1, lost_2, ..." in str(summary)


def tone(rate=44_100, seconds=3.0, seed=1):
  """Return noise under a wandering envelope: speech enough to be aligned."""
  rng = np.random.default_rng(seed)
  envelope = np.interp(
    np.arange(round(seconds * rate)) / rate,
    np.arange(0, seconds + 1, 0.2),
    rng.random(len(np.arange(0, seconds + 1, 0.2))) * 0.3,
  )
  return (envelope * rng.normal(size=len(envelope)) * 0.5).astype(np.float32)


class TestSpeech:
  @pytest.fixture
  def folder(self, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    frames = media_files.pictures(Media(frames=60))
    media.write_video(folder / "a.mp4", frames, 24, tone()[4410:], 44_100)
    caption(folder, {"a": "A flash."})
    return folder

  def ingested(self, folder, tmp_path, **options):
    summary, taken = run(folder, folder / "captions.csv", tmp_path, **options)
    return summary, taken["a"]["speech"]

  def lag(self, speech) -> int:
    """Return how far speech lies behind the one that is written to files."""
    wanted = resampling.resample(tone(), 44_100, CLIP.sample_rate)
    return media.measure_lag(speech, wanted)

  @pytest.mark.parametrize("name", ["a.wav", "a_speech.wav"])
  def test_beside_the_clip_starts_with_the_picture(
    self, folder, tmp_path, name
  ):
    soundfile.write(folder / name, np.stack([tone()] * 2, 1), 44_100)
    summary, speech = self.ingested(folder, tmp_path)
    assert self.lag(speech) == 0
    assert "not in sync" in summary.remarks["a"]
    assert "-0.1000 s" in summary.remarks["a"]

  def test_is_shifted_to_the_clips_own_sound(self, folder, tmp_path):
    soundfile.write(folder / "a.wav", tone(), 44_100)
    summary, speech = self.ingested(folder, tmp_path, align=True)
    assert abs(self.lag(speech) + 1600) <= 1
    assert "shifted to a lag of -0.1" in summary.remarks["a"]

  def test_of_another_sound_cannot_be_aligned(self, folder, tmp_path):
    soundfile.write(folder / "a.wav", tone(seed=2), 44_100)
    summary, _ = run(folder, folder / "captions.csv", tmp_path, align=True)
    assert refusals(summary) == {"not aligned": {"a"}}

  def test_comes_from_a_folder_of_its_own(self, folder, tmp_path):
    speeches = tmp_path / "speeches"
    speeches.mkdir()
    soundfile.write(speeches / "a_speech.wav", tone(), 44_100)
    # The clip lies deeper, and shares its name with another.
    (folder / "deep").mkdir()
    (folder / "a.mp4").rename(folder / "deep" / "a.mp4")
    (folder / "deep" / "a.mov").write_bytes(b"")
    caption(folder, {"a.mp4": "A flash.", "a.mov": "A flash."})
    summary, taken = run(
      folder, folder / "captions.csv", tmp_path, speech=speeches
    )
    assert refusals(summary) == {"broken": {"deep/a.mov"}}
    assert self.lag(taken["deep/a.mp4"]["speech"]) == 0
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
      self.ingested(folder, tmp_path / "b", speech=tmp_path / "none")

  def test_comes_from_where_the_captions_say(self, folder, tmp_path):
    soundfile.write(folder / "other.wav", tone(), 44_100)
    (folder / "captions.csv").write_text(
      "clip,prompt,speech,kind,split\na,A flash.,other.wav,medium,test\n"
    )
    summary, speech = self.ingested(folder, tmp_path)
    assert self.lag(speech) == 0 and summary.records == {"test": 1}
    (folder / "other.wav").unlink()
    summary, _ = run(folder, folder / "captions.csv", tmp_path / "b")
    assert summary.refused == {"soundless": {"a": "other.wav: no such file"}}

  def test_that_is_damaged_refuses_its_clip(self, folder, tmp_path):
    (folder / "a.wav").write_text("no sound\n" * 99)
    summary, _ = run(folder, folder / "captions.csv", tmp_path)
    assert refusals(summary) == {"broken": {"a"}}

  @pytest.mark.parametrize(
    ("seconds", "taken"), [(1.0, False), (1.85, False), (1.95, True)]
  )
  @pytest.mark.parametrize("own", [None, "aac"])
  def test_that_ends_before_the_clip_refuses_it(
    self, tmp_path, own, seconds, taken
  ):
    media_files.write(tmp_path / "a.mp4", Media(sound=own))
    soundfile.write(tmp_path / "a.wav", tone(seconds=seconds), 44_100)
    captions = caption(tmp_path, {"a": "A flash."})
    summary, _ = run(tmp_path, captions, tmp_path)
    found = {"a": f"{seconds:.2f} s of a.wav, 2.00 s needed"}
    assert summary.refused == ({} if taken else {"too short": found})

  def test_that_ends_early_once_shifted_refuses_its_clip(
    self, folder, tmp_path
  ):
    soundfile.write(folder / "a.wav", tone()[: 2 * 44_100], 44_100)
    assert not run(folder, folder / "captions.csv", tmp_path)[0].refused
    summary, _ = run(
      folder, folder / "captions.csv", tmp_path / "b", align=True
    )
    assert refusals(summary) == {"too short": {"a"}}
    assert (
      "1.90 s of a.wav; speech shifted" in summary.refused["too short"]["a"]
    )

  def test_is_not_looked_for_where_clips_go_without(self, folder, tmp_path):
    def table(kind):
      text = f"clip,prompt,speech,kind\na,A flash.,none.wav,{kind}\n"
      (folder / "captions.csv").write_text(text)
      return folder / "captions.csv"

    summary, _ = run(folder, table("close_up"), tmp_path, text_only=True)
    assert summary.records == {"train_text_only": 1} and not summary.refused
    summary, _ = run(folder, table("text_only"), tmp_path / "b")
    assert summary.records == {"train_text_only": 1} and not summary.refused

  def test_is_left_out_of_text_only_clips(self, folder, tmp_path):
    media_files.write(folder / "mute.mp4", Media(sound=None))
    captions = caption(folder, {"a": "A flash.", "mute": "A flash."})
    summary, taken = run(folder, captions, tmp_path, text_only=True)
    assert summary.records == {"train_text_only": 2} and not summary.refused
    assert {len(record["speech"]) for record in taken.values()} == {0}


def test_a_long_clip_is_cut_into_windows(tmp_path):
  kind = Media(frames=150, flash=60)
  media_files.write(tmp_path / "a.mp4", kind)
  captions = caption(tmp_path, {"a": "A flash."})
  summary, taken = run(tmp_path, captions, tmp_path, windows=9, silence=-30.0)
  # Of three windows only the one with the click is loud enough.
  assert list(taken) == ["a@1"]
  assert summary.remarks == {"a": "2 of 3 windows silent, left out"}
  assert int(np.argmax(taken["a@1"]["frames"].mean((1, 2, 3)))) == 12
  click = int(np.argmax(np.abs(taken["a@1"]["speech"])))
  assert abs(click - 8000) <= 1


@pytest.mark.parametrize("bad", [{"windows": 0}, {"silence": 0.0}])
def test_options_are_checked(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    ingest.IngestConfig(**bad)


@media_files.needs_real_clips
def test_real_clips_go_through_as_they_are(tmp_path):
  root = pathlib.Path(media_files.REAL)
  summary, taken = run(
    root / "mocha-generation",
    root / "benchmark/benchmark.csv",
    tmp_path,
    speech=root / "benchmark/speeches",
  )
  with (root / "measured_alignment.csv").open() as file:
    names = {f"{r['category']}/{r['context_id']}" for r in csv.DictReader(file)}
  assert set(taken) == names and not summary.refused
  assert len(summary.unused_captions) == 220 - 18
