import json

import av
import numpy as np
import pytest

from data_pipelines.toy import tasks
from mocha_jax.codecs import linear
from mocha_jax.evaluation import measure, score, table
from mocha_jax.media import ClipFormat

CLIP = ClipFormat(frames=24, fps=24, height=64, width=64, sample_rate=16_000)
SPEAKING = ("close_up", "two_shot", "dialogue", "dialogue_aba")


def records_of(split, kind, count, seed=3):
  made = tasks.examples(split, kind, count, seed=seed, clip=CLIP)
  return [{**record, "split": split} for record in made]


@pytest.fixture(scope="module")
def clips():
  return [
    *records_of("test", "text_only", 2),
    *(r for kind in SPEAKING for r in records_of("test", kind, 2)),
    *records_of("test_other_language", "close_up", 1),
  ]


@pytest.fixture(scope="module")
def codec(clips):
  config = linear.CodecConfig("linear", 4, 8, 96, False, 1.0, (1.0, 1.0, 1.0))
  return linear.fit(config, [clip["frames"] for clip in clips])


def evaluate(clips, frames, codec, kinds=SPEAKING):
  return score.evaluate(
    clips, frames, codec=codec, clip=CLIP, headline_kinds=kinds
  )[1]


@pytest.fixture(scope="module")
def perfect(clips, codec):
  return evaluate(clips, [clip["frames"] for clip in clips], codec)


def test_true_frames_score_fully(perfect):
  assert perfect["mouth_correlation"] > 0.98
  assert perfect["other_language_correlation"] > 0.98
  for key in (
    "viseme_closed_accuracy",
    "rest_in_silence",
    "listener_at_rest",
    "right_speaker",
    "attribute_accuracy",
    "emotion_accuracy",
    "action_accuracy",
  ):
    assert perfect[key] >= 0.95, key


def test_codec_limits_what_can_be_reached(perfect):
  assert 0.7 < perfect["mouth_correlation_ceiling"] < 0.99
  for part in perfect["kinds"].values():
    ceiling = part["ceiling"]["mouth_correlation"]
    assert part["mouth_correlation_ceiling"] == ceiling


def test_clips_in_the_wrong_order_score_as_swapped_ones(clips, codec):
  own = [c for c in clips if c["kind"] == "close_up"][:2]
  own += records_of("test", "close_up", 4, seed=5)
  frames = [c["frames"] for c in own]
  right = evaluate(own, frames, codec)
  wrong = evaluate(own, [*frames[1:], frames[0]], codec)
  assert right["mouth_correlation"] > 0.98
  assert wrong["mouth_correlation"] < 0.4
  assert abs(right["mouth_correlation_swapped"]) < 0.4
  assert wrong["attribute_accuracy"] < 0.7


def test_delayed_pictures_score_lower(clips, codec, perfect):
  own = [c for c in clips if c["kind"] in ("close_up", "two_shot")]
  late = [np.roll(c["frames"], 3, axis=0) for c in own]
  got = evaluate(own, late, codec)
  assert got["mouth_correlation"] < perfect["mouth_correlation"] - 0.2


def test_wrong_side_of_the_cut_is_seen(clips, codec):
  """The takes of a dialogue swapped: the other person sits on each side."""
  talks = [c for c in clips if c["kind"] == "dialogue"]
  frames = [np.roll(c["frames"], -c["cuts"][0], axis=0) for c in talks]
  got = evaluate(talks, frames, codec)
  assert got["right_speaker"] < 0.3


def test_mirrored_shot_of_two_has_the_wrong_speaker(clips, codec):
  talks = [c for c in clips if c["kind"] == "two_shot"]
  frames = [c["frames"][:, :, ::-1] for c in talks]
  got = evaluate(talks, frames, codec)
  assert got["right_speaker"] == 0
  assert got["listener_at_rest"] < 0.9


def test_score_with_nothing_to_measure_is_null_and_never_nan(clips, codec):
  silent = [c for c in clips if c["kind"] == "text_only"]
  got = evaluate(silent, [c["frames"] for c in silent], codec)
  for key in ("mouth_correlation", "right_speaker", "loudness_correlation"):
    assert got[key] is None
  assert got["rest_in_silence"] == 1.0
  json.dumps(got, allow_nan=False)


def test_overall_is_the_mean_of_the_headline_kinds(perfect):
  kinds = perfect["kinds"]
  heads = ("close_up", "dialogue")
  got = measure.overall(kinds, heads)
  for key in ("mouth_correlation", "action_accuracy"):
    assert got[key] == pytest.approx(np.mean([kinds[k][key] for k in heads]))
  assert got["listener_at_rest"] is None  # Only a shot of two has it.


def test_other_language_is_counted_apart(perfect, clips):
  assert perfect["clips"] == len(clips) - 1
  assert perfect["kinds"]["close_up"]["clips"] == 2


def test_every_score_is_there_overall_and_per_kind(perfect):
  for part in (perfect, *perfect["kinds"].values()):
    assert set(table.SCORES) <= set(part)
    assert {"mouth_correlation_ceiling", "clips", "ceiling"} <= set(part)


def test_reading_sees_no_truth(clips):
  """With another truth, the same frames are read the same."""
  record = next(c for c in clips if c["kind"] == "two_shot")
  people = json.loads(record["attributes"])
  for person in people:
    person |= dict(skin="pale", hair="grey", shirt="white", emotion="sad")
  lied = record | dict(
    attributes=json.dumps(people),
    mouth=record["mouth"] * 0,
    viseme=record["viseme"] * 0,
    prompt="",
    speech=record["speech"] * 0,
  )
  seen, again = (
    measure.see(r, record["frames"], CLIP).mouths.measured
    for r in (record, lied)
  )
  np.testing.assert_array_equal(seen, again)


def test_frames_of_another_length_are_refused(clips):
  with pytest.raises(ValueError, match=clips[0]["name"]):
    measure.see(clips[0], clips[0]["frames"][:-4], CLIP)


def test_table_shows_every_score(perfect):
  shown = table.table(perfect)
  assert shown.row_count == len(table.SCORES) + 1
  assert table.shown("mouth_correlation", 0.876) == "0.88"
  assert table.shown("rest_in_silence", 0.876) == "88%"
  assert table.shown("rest_in_silence", None) == "–"


def test_samples_are_mp4s_with_sound_and_lossless_frames(clips, tmp_path):
  chosen = [clips[0], clips[2]]  # Without speech, and with.
  frames = [c["frames"] for c in chosen]
  seen = [measure.see(c, f, CLIP) for c, f in zip(chosen, frames, strict=True)]
  score.save_samples(tmp_path, chosen, frames, seen, CLIP)
  rows = json.loads((tmp_path / "clips.json").read_text())
  assert [row["name"] for row in rows] == [c["name"] for c in chosen]
  for row, sounds in zip(rows, (0, 1), strict=True):
    for key in ("sampled", "true"):
      with av.open(str(tmp_path / row[key]), "r") as file:
        assert len(file.streams.audio) == sounds
        assert file.streams.video[0].height == 256
  with np.load(tmp_path / "frames.npz", allow_pickle=False) as kept:
    np.testing.assert_array_equal(kept["frames"], np.stack(frames))
