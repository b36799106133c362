import base64
import html.parser
import json
import re

import numpy as np
import pytest

from mocha_jax import media
from mocha_jax.evaluation import charts, report, table

HOSTILE = '</pre><script src="https://x.invalid/a.js">alert("&")</script>'


def scores():
  part = dict.fromkeys(table.SCORES, 0.5) | {"listener_at_rest": None}
  part |= {"ceiling": dict(part), "split": "test", "clips": 1}
  return part | {
    "kinds": {"close_up": dict(part)},
    "guidance": {"speech": 2.0, "text": 3.0},
    "step": 1200,
  }


@pytest.fixture
def run(tmp_path):
  folder = tmp_path / "a<b"
  samples = folder / "samples"
  frames = np.random.default_rng(0).integers(
    0, 256, (8, 32, 32, 3), dtype=np.uint8
  )
  sound = np.sin(np.arange(5333) / 20).astype(np.float32)
  for name in ("one.mp4", "one_true.mp4"):
    media.write_video(samples / name, frames, 24, sound, 16_000)
  clip = {
    "sampled": "one.mp4",
    "true": "one_true.mp4",
    "name": "one",
    "kind": "close_up",
    "split": "test",
    "prompt": HOSTILE,
    "mouth_correlation": 0.5,
    "mouths": [
      {
        "person": "Person1",
        "frames": [0, 1, 2],
        "measured": [0.0, 0.5, 0.2],
        "truth": [0.0, 0.6, 0.1],
      }
    ],
  }
  (samples / "clips.json").write_text(json.dumps([clip]))
  (folder / "scores.json").write_text(json.dumps(scores()))
  config = {"clip": dict(frames=8, fps=24, height=32, width=32), "x": HOSTILE}
  (folder / "config.json").write_text(json.dumps(config))
  rows = [{"step": s, "loss": 2 / (s + 1)} for s in range(300)]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "metrics.jsonl").write_text(lines)
  return folder


class Page(html.parser.HTMLParser):
  """Collects tags, their attributes, and what stands between them."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text = [], ""
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text += data


def written(run):
  return report.write(run).read_text(encoding="utf-8")


def test_report_needs_no_other_file_and_no_network(run):
  page = Page(written(run))
  for tag, attributes in page.tags:
    assert tag not in ("link", "iframe", "object", "embed", "base", "img")
    for name in ("src", "href", "poster", "data"):
      assert (attributes.get(name) or "data:").startswith("data:")
  style = re.findall(r"<style>(.*?)</style>", written(run), re.DOTALL)[0]
  assert "url(" not in style and "@import" not in style


def test_hostile_caption_and_config_are_shown_and_not_run(run):
  text = written(run)
  page = Page(text)
  assert sum(tag == "script" for tag, _ in page.tags) == 1  # Our own.
  assert 'src="https' not in text
  assert page.text.count(HOSTILE) >= 2  # In caption and config, as text.


def test_videos_in_the_report_are_the_mp4s_bit_by_bit(run):
  sources = [a["src"] for t, a in Page(written(run)).tags if t == "video"]
  for name, source in zip(("one.mp4", "one_true.mp4"), sources, strict=True):
    head, data = source.split(",", 1)
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(data) == (run / "samples" / name).read_bytes()


def test_report_shows_loss_scores_config_versions_and_guidance(run):
  text = written(run)
  assert 'aria-label="Training loss by step"' in text
  assert 'aria-label="Mouth opening of Person1"' in text
  for word in ("0.50", "50%", "–", "jax", "flax", "grain", "python", "1,200"):
    assert word in text
  assert "speech guidance 2, text guidance 3" in text
  assert "mocha score" in text


def test_run_without_metrics_says_so(run):
  (run / "metrics.jsonl").unlink()
  assert "No metrics.jsonl" in written(run)


def test_run_without_scores_is_refused(run):
  (run / "scores.json").unlink()
  with pytest.raises(FileNotFoundError, match=r"scores\.json is missing"):
    report.write(run)


def test_chart_leaves_out_what_is_not_finite():
  drawn = charts.lines(
    {"each": [(0, 1.0), (1, float("nan")), (2, 0.0), (3, 2.0)]},
    size=(200, 100),
    y_range=None,
    y_log=True,
    title="loss",
  )
  points = re.findall(r'points="([^"]*)"', drawn)[0].split()
  assert len(points) == 2
  assert "nan" not in drawn


def test_chart_of_nothing_is_empty():
  size = (200, 100)
  assert (
    charts.lines({"a": []}, size=size, y_range=None, y_log=False, title="")
    == ""
  )


def test_smoothing_keeps_a_constant_and_thinning_the_end():
  points = [(float(i), 3.0) for i in range(50)]
  assert np.allclose([y for _, y in charts.smoothed(points, span=20)], 3.0)
  kept = charts.thinned(points, 10)
  assert len(kept) <= 10 and kept[-1] == points[-1]
