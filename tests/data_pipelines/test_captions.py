import pathlib

import pytest

from data_pipelines import captions

CLIPS = {
  name.rpartition(".")[0]: pathlib.PurePath(name)
  for name in ("close/1.mp4", "wide/1.mp4", "wide/2.mov", "v1.5.mp4")
}


def table(tmp_path, text: str) -> pathlib.Path:
  path = tmp_path / "captions.csv"
  path.write_text(text, encoding="utf-8")
  return path


@pytest.mark.parametrize("name", ["clip", "name", "context_id"])
@pytest.mark.parametrize("prompt", ["prompt", "caption"])
def test_takes_columns_by_each_of_their_names(tmp_path, name, prompt):
  text = f'\ufeffother,{name},{prompt},kind\n7,a,"A cat, asleep.",medium\n'
  (row,) = captions.read(table(tmp_path, text))
  assert (row.clip, row.prompt, row.kind) == ("a", "A cat, asleep.", "medium")
  assert (row.line, row.category, row.split, row.speech) == (2, "", "", "")


def test_takes_off_literal_quotes_and_escapes(tmp_path):
  text = 'clip,prompt\na,"""Two lines.\\n\\nHere."""\n'
  (row,) = captions.read(table(tmp_path, text))
  assert row.prompt == "Two lines.\n\nHere."


@pytest.mark.parametrize(
  ("text", "error"),
  [
    ("", "no column clip or name or context_id"),
    ("clip,text\na,b\n", "no column prompt or caption; it has clip, text"),
    (
      "clip,prompt,kind\na,b,closeup\n",
      "line 2: kind 'closeup' .* \"close_up\"",
    ),
    ("clip,prompt,split\na,b,tset\n", "split 'tset' is unknown; .* \"test\""),
  ],
)
def test_says_what_is_wrong_with_a_table(tmp_path, text, error):
  with pytest.raises(ValueError, match=error):
    captions.read(table(tmp_path, text))


def test_says_that_there_is_no_table(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"nope\.csv: no such file$"):
    captions.read(tmp_path / "nope.csv")


def test_refuses_what_is_no_text(tmp_path):
  path = tmp_path / "captions.csv"
  path.write_bytes(b"clip,prompt\n\xff\xfe\x00,b\n")
  with pytest.raises(ValueError, match="no CSV file"):
    captions.read(path)
  with pytest.raises(FileNotFoundError):
    captions.read(tmp_path / "none.csv")


@pytest.mark.parametrize(
  ("category", "clip", "found"),
  [
    ("wide", "1", "wide/1"),
    ("", "close/1", "close/1"),
    ("", "close/1.mp4", "close/1"),
    ("", "2", "wide/2"),
    ("", "2.mov", "wide/2"),
    ("another", "2", "wide/2"),
    ("", "v1.5", "v1.5"),
    ("", "v1.5.mp4", "v1.5"),
    ("", "2.mp4", None),
    ("", "", None),
  ],
)
def test_finds_clips_by_path_or_name(tmp_path, category, clip, found):
  text = f"category,clip,prompt\n{category},{clip},x\n"
  rows = captions.read(table(tmp_path, text))
  assert list(captions.match(rows, CLIPS)) == ([found] if found else [])


def test_refuses_a_name_that_two_clips_share(tmp_path):
  rows = captions.read(table(tmp_path, "clip,prompt\n1,x\n"))
  with pytest.raises(
    ValueError, match=r"line 2: '1' may be close/1.mp4 or wide"
  ):
    captions.match(rows, CLIPS)
