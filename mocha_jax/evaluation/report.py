"""The report of a run: one HTML file that needs no other file and no network.

It is put together from what lies in the run folder: scores.json, config.json,
metrics.jsonl (a line per logged step) and samples/ (clips.json and the mp4s).
"""

import base64
import html
import importlib.metadata
import importlib.resources
import json
import os
import pathlib
import platform
import shlex
import string
from collections.abc import Mapping, Sequence
from typing import Any

from mocha_jax.evaluation import charts
from mocha_jax.evaluation.table import SCORES, ceiling, shown

_PACKAGES = (
  "mocha_jax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "array_record",
  "tensorflow-datasets",
  "numpy",
  "av",
  "librosa",
)

# Clips in the report: at up to 0.4 MB the pair, it stays below 15 MB.
_MOST_CLIPS = 24


def write(run: str | os.PathLike[str]) -> pathlib.Path:
  """Write RUN/report.html and return its path.

  The loss curve is left out, saying so, where RUN has no metrics.jsonl; the
  other files must be there.
  """
  run = pathlib.Path(run)
  scores = _json(run / "scores.json")
  config = _json(run / "config.json")
  clips = _json(run / "samples" / "clips.json")
  sections = [
    _section("Scores", _scores(scores)),
    _section("Training", _training(run / "metrics.jsonl")),
    _section("Clips", _clips(clips, run / "samples")),
    _section("How to get here", _commands(run, clips)),
    _section("Config", _folded("every key", config)),
    _section("Versions", _versions()),
  ]
  template = importlib.resources.files("mocha_jax.evaluation") / "report.html"
  page = string.Template(template.read_text(encoding="utf-8")).substitute(
    title=html.escape(f"Run {run.name}"),
    subtitle=html.escape(_subtitle(scores, config)),
    sections="\n".join(sections),
  )
  path = run / "report.html"
  partial = path.with_name(f".{path.name}.partial")
  partial.write_text(page, encoding="utf-8")
  partial.replace(path)
  return path


def _json(path: pathlib.Path) -> Any:
  if not path.is_file():
    raise FileNotFoundError(f"{path} is missing: score the run first")
  return json.loads(path.read_text(encoding="utf-8"))


def _subtitle(scores: Mapping[str, Any], config: Mapping[str, Any]) -> str:
  clip = config["clip"]
  return (
    f"step {scores['step']:,}, {scores['clips']} clips of split"
    f" {scores['split']}, each"
    f" {clip['frames']} frames, {clip['width']} × {clip['height']} pixels,"
    f" {clip['fps']} frames/s; speech guidance"
    f" {scores['guidance']['speech']:g}, text guidance"
    f" {scores['guidance']['text']:g}"
  )


def _section(title: str, body: str) -> str:
  return f"<section><h2>{title}</h2>{body}</section>"


def _scores(scores: Mapping[str, Any]) -> str:
  kinds = scores["kinds"]
  heads = ["", "all", "ceiling", *(kind.replace("_", " ") for kind in kinds)]
  rows = []
  for key, (title, meaning) in SCORES.items():
    cells = [
      f"<td>{html.escape(title)}<small>{html.escape(meaning)}</small></td>",
      f'<td class="all">{shown(key, scores[key])}</td>',
      f'<td class="soft">{shown(key, ceiling(scores, key))}</td>',
      *(f"<td>{shown(key, kinds[kind][key])}</td>" for kind in kinds),
    ]
    rows.append(f"<tr>{''.join(cells)}</tr>")
  counts = "".join(f"<td>{kinds[kind]['clips']}</td>" for kind in kinds)
  rows.append(f"<tr><td>Clips</td><td>{scores['clips']}</td><td></td>{counts}")
  head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
  return (
    f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
    f"<tbody>{''.join(rows)}</tbody></table></div>"
    '<p class="soft">All: the mean over the kinds of clip that this experiment'
    " is about. Ceiling: the same measurement on the true clips, passed through"
    " the codec alone. –: nothing to measure.</p>"
  )


def _training(path: pathlib.Path) -> str:
  points = []
  if path.is_file():
    for line in path.read_text(encoding="utf-8").splitlines():
      row = json.loads(line)
      if "loss" in row and row["loss"] is not None:
        points.append((float(row["step"]), float(row["loss"])))
  chart = charts.lines(
    {
      "each": charts.thinned(points, 800),
      "smooth": charts.thinned(charts.smoothed(points, span=20), 400),
    },
    size=(1100, 280),
    y_range=None,
    y_log=True,
    title="Training loss by step",
  )
  if not chart:
    return '<p class="soft">No metrics.jsonl in the run folder.</p>'
  return (
    f'<div class="card">{chart}<p class="soft">Flow-matching loss by step,'
    " logarithmic; the strong line is a running mean over about 20 logged"
    " steps.</p></div>"
  )


def _clips(clips: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  legend = (
    '<p class="soft">Left: sampled by the model from caption and speech.'
    " Right: the true clip. Below: the opening of the mouth,"
    ' <span class="key measured">measured in the sampled frames</span> and'
    ' <span class="key truth">true</span>, by video frame.</p>'
  )
  cards = "".join(_clip(clip, folder) for clip in clips[:_MOST_CLIPS])
  left = len(clips) - _MOST_CLIPS
  more = f'<p class="soft">{left} more in samples/.</p>' if left > 0 else ""
  return f'{legend}<div class="clips">{cards}</div>{more}'


def _clip(clip: Mapping[str, Any], folder: pathlib.Path) -> str:
  sampled, true = (_video(folder / clip[key]) for key in ("sampled", "true"))
  curves = "".join(_curve(track) for track in clip["mouths"])
  r = clip["mouth_correlation"]
  chips = [
    clip["kind"].replace("_", " "),
    *(["other language"] if clip["split"] == "test_other_language" else []),
    *([f"r = {r:.2f}"] if r is not None else []),
  ]
  return (
    '<article class="card clip">'
    '<div class="pair">'
    f'<figure><video playsinline preload="metadata" src="{sampled}"></video>'
    "<figcaption>sampled</figcaption></figure>"
    f'<figure><video playsinline muted preload="metadata" src="{true}">'
    "</video><figcaption>true</figcaption></figure></div>"
    '<div class="bar"><button type="button">Play both</button>'
    + "".join(f'<span class="chip">{html.escape(c)}</span>' for c in chips)
    + f"</div>{curves}"
    f'<p class="caption">{html.escape(clip["prompt"])}</p></article>'
  )


def _curve(track: Mapping[str, Any]) -> str:
  """Draw measured and true opening; frames not shown break neither."""
  chart = charts.lines(
    {
      name: list(zip(track["frames"], track[name], strict=True))
      for name in ("truth", "measured")
    },
    size=(420, 110),
    y_range=(0.0, 1.0),
    y_log=False,
    title=f"Mouth opening of {track['person']}",
  )
  name = html.escape(track["person"])
  return f"<figure>{chart}<figcaption>{name}</figcaption></figure>"


def _video(path: pathlib.Path) -> str:
  data = base64.b64encode(path.read_bytes()).decode("ascii")
  return f"data:video/mp4;base64,{data}"


def _commands(run: pathlib.Path, clips: Sequence[Mapping[str, Any]]) -> str:
  folder = shlex.quote(str(run))
  lines = [f"mocha score {folder}"]
  if clips:
    prompt = shlex.quote(clips[0]["prompt"])
    lines.append(
      f"mocha sample --run {folder} --prompt {prompt} --speech SPEECH.wav"
      " --out CLIP.mp4"
    )
  return f'<pre class="card">{html.escape(chr(10).join(lines))}</pre>'


def _folded(summary: str, value: Any) -> str:
  text = html.escape(json.dumps(value, indent=2))
  return (
    f'<details class="card"><summary>{summary}</summary>'
    f"<pre>{text}</pre></details>"
  )


def _versions() -> str:
  rows = [("python", platform.python_version()), ("system", _system())]
  for name in _PACKAGES:
    try:
      rows.append((name, importlib.metadata.version(name)))
    except importlib.metadata.PackageNotFoundError:
      rows.append((name, "not installed"))
  chips = "".join(
    f'<span class="chip">{html.escape(f"{name} {version}")}</span>'
    for name, version in rows
  )
  return f'<div class="card bar">{chips}</div>'


def _system() -> str:
  return f"{platform.system()} {platform.machine()}"
