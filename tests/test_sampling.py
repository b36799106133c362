import json
import shutil

import numpy as np
import pytest
import soundfile

from mocha_jax import sampling
from tests import command

PROMPT = "A close-up of a woman who talks."


def table(folder, *rows: str):
  path = folder / "wishes.csv"
  path.write_text("\n".join(["name,prompt,speech", *rows]) + "\n")
  return path


def test_cell_may_have_quotes_of_its_own_and_written_line_ends(tmp_path):
  path = table(tmp_path, 'a,"""Two lines.\\n\\nHere.""",')
  (wish,) = sampling.read_wishes(path, tmp_path)
  assert wish.prompt == "Two lines.\n\nHere."


def test_prompt_that_is_too_long_is_named_before_a_clip_is_written(
  tiny_run, tmp_path
):
  soundfile.write(tmp_path / "half.wav", np.tile([0.5, -0.5], 4000), 16_000)
  long = "She talks. " * 100
  path = table(tmp_path, f"good,{PROMPT},half.wav", f"long,{long},")
  wishes = sampling.read_wishes(path, tmp_path / "clips")
  with pytest.raises(ValueError, match=r"the prompt of .*long\.mp4: .*128"):
    sampling.sample(tiny_run, wishes, seed=0, frames=None, changes={})
  assert not (tmp_path / "clips").exists()


def test_table_may_have_more_rows_than_a_batch(tiny_run, tmp_path):
  run = shutil.copytree(tiny_run, tmp_path / "run")
  config = json.loads((run / "config.json").read_text())
  config["sample"]["batch_size"] = 2
  (run / "config.json").write_text(json.dumps(config))
  path = table(tmp_path, *(f"{name},{PROMPT}," for name in "abc"))
  out = tmp_path / "clips"
  command.mocha(
    "sample", "--run", run, "--csv", path, "--out", out, cwd=tmp_path
  )
  clips = {path.name: path.read_bytes() for path in out.iterdir()}
  assert set(clips) == {"a.mp4", "b.mp4", "c.mp4"}
  # Of one prompt, but each from a noise of its own.
  assert len(set(clips.values())) == 3
