import io
import itertools
import json

import numpy as np
import pytest
import rich
import rich.console

from data_pipelines import records
from data_pipelines.toy import build, scene, tasks
from mocha_jax.media import ClipFormat
from tests import numerics

CLIP = ClipFormat(frames=24, fps=24, height=32, width=32, sample_rate=16_000)


def made(split: str, kind: str, count: int = 2, clip: ClipFormat = CLIP):
  return list(tasks.examples(split, kind, count, seed=0, clip=clip))


def voices_of(record) -> list[str]:
  return [person["voice"] for person in json.loads(record["attributes"])]


def test_record_depends_on_its_own_index_only():
  one = tasks.example(tasks.Task(0, "train", "close_up", 3), CLIP)
  four = made("train", "close_up", 4)[3]
  numerics.assert_same(one, four)


def test_records_differ():
  a, b = made("train", "close_up", 2)
  assert a["name"] != b["name"]
  assert not np.array_equal(a["frames"], b["frames"])
  assert not np.array_equal(a["speech"], b["speech"])


@pytest.mark.parametrize("frames", [24, 25])
@pytest.mark.parametrize("size", [(32, 32), (32, 48), (48, 32)])
def test_record_fits_the_clip(frames, size):
  clip = ClipFormat(frames, 24, *size, sample_rate=8_000)
  for kind in scene.KINDS:
    record = made("test", kind, 1, clip)[0]
    persons = len(json.loads(record["attributes"]))
    assert record["frames"].shape == (frames, *size, 3)
    for name in ("mouth", "viseme", "visible"):
      assert record[name].shape == (persons, frames)
    assert record["speaker"].shape == (frames,)
    silent = kind == "text_only"
    assert len(record["speech"]) == (0 if silent else clip.samples)


def test_clip_without_speech_rests():
  for record in made("train", "text_only", 4):
    assert not record["mouth"].any() and not record["viseme"].any()
    assert set(record["speaker"]) == {-1}


def test_speaker_and_voice_change_at_the_cut():
  for record in made("train", "dialogue", 4):
    (cut,) = record["cuts"]
    assert set(record["speaker"][:cut]) == {0}
    assert set(record["speaker"][cut:]) == {1}
    assert len(set(voices_of(record))) == 2
    assert record["visible"][0, :cut].all()
    assert not record["visible"][0, cut:].any()


def test_picture_changes_most_at_the_cuts():
  for record in made("test", "dialogue_aba", 3):
    frames = record["frames"].astype(int)
    change = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    cuts = record["cuts"] - 1
    assert change[cuts].min() > 3 * np.delete(change, cuts).max()


def test_listener_rests_while_the_other_talks():
  for record in made("train", "two_shot", 4):
    (speaker,) = set(record["speaker"])
    assert record["mouth"][speaker].any()
    assert not record["mouth"][1 - speaker].any()


def test_places_say_where_each_person_is():
  for kind in scene.KINDS:
    for record in made("test", kind, 2):
      people = json.loads(record["attributes"])
      for person, visible in zip(people, record["visible"], strict=True):
        seen = np.zeros_like(visible)
        for place in person["places"]:
          seen[place["start"] : place["stop"]] = True
        np.testing.assert_array_equal(seen, visible)


def test_tests_hear_neither_words_nor_voices_of_training():
  train, test = (made(split, "close_up", 12) for split in ("train", "test"))
  for key in ("text", "voice"):
    a, b = (
      {json.loads(record["attributes"])[0][key] for record in group}
      for group in (train, test)
    )
    assert not a & b


def test_other_language_is_mandarin():
  (record,) = made("test_other_language", "close_up", 1)
  (person,) = json.loads(record["attributes"])
  assert person["voice"].startswith("cmn")
  assert not person["text"].isascii()


def toy(**counts) -> build.ToyConfig:
  return build.ToyConfig(
    seed=0, train=counts, test={"close_up": 1}, test_other_language={}
  )


def test_processes_make_what_one_would(tmp_path):
  build.make(toy(close_up=2, dialogue=1), CLIP, tmp_path, processes=2)
  assert records.splits(tmp_path) == {
    "test": 1,
    "train_close_up": 2,
    "train_dialogue": 1,
  }
  wanted = {r["name"]: r for r in made("train", "close_up", 2)}
  for record in records.read(tmp_path, "train_close_up"):
    numerics.assert_same(record, wanted[record["name"]])


def test_splits_are_shown_in_a_terminal_while_they_are_made(
  tmp_path, monkeypatch
):
  screen = io.StringIO()
  console = rich.console.Console(file=screen, force_terminal=True, width=80)
  monkeypatch.setattr(rich, "get_console", lambda: console)
  build.make(toy(close_up=1), CLIP, tmp_path, processes=1)
  said = screen.getvalue()
  assert "make train_close_up" in said and "make test" in said


def test_same_config_makes_nothing_anew_and_another_is_refused(tmp_path):
  build.make(toy(), CLIP, tmp_path, processes=1)
  files = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
  build.make(toy(), CLIP, tmp_path, processes=1)
  again = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
  assert files == again
  with pytest.raises(ValueError, match="holds records that another config"):
    build.make(toy(medium=1), CLIP, tmp_path, processes=1)


def test_names_are_unique_over_all_splits():
  names = [
    tasks.example(tasks.Task(0, split, kind, 0), CLIP)["name"]
    for split, kind in itertools.product(("train", "test"), ("medium",))
  ]
  assert len(set(names)) == len(names)


def test_unknown_kind_and_negative_count_are_refused():
  with pytest.raises(ValueError, match=r"train\.dialogue_aba: no such kind"):
    toy(dialogue_aba=1)
  with pytest.raises(ValueError, match=r"train\.medium=-1 must not be"):
    toy(medium=-1)
