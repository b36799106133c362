"""How a run is scored: held-out clips are sampled, measured and kept.

Written into the run folder: scores.json and samples/ (for every clip an mp4
as sampled and one of the truth; clips.json; frames.npz, without loss).
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipelines import records as store
from mocha_jax import media
from mocha_jax.codecs import Codec
from mocha_jax.evaluation import measure
from mocha_jax.evaluation.lip_sync import (
  constant_tracks,
  mean,
  mouth_correlation,
  swapped_correlation,
)
from mocha_jax.evaluation.measure import Scores, Seen
from mocha_jax.evaluation.strip import enlarge
from mocha_jax.generation import Generator
from mocha_jax.media import ClipFormat
from mocha_jax.sections import section

OTHER_LANGUAGE = "test_other_language"

# Small pictures are enlarged for the mp4s until they have about this height.
_WATCHABLE = 256

Record = dict[str, Any]
Frames = Sequence[UInt8[np.ndarray, "F H W 3"]]


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
  """Section `score`.

  clips, of the split of that name, and other_language_clips are at most so
  many, evenly from all kinds of their split; headline_kinds are those that
  the overall scores are means of.
  """

  split: str
  clips: int
  other_language_clips: int
  headline_kinds: tuple[str, ...]
  seed: int

  def __post_init__(self):
    if self.clips < 1 or self.other_language_clips < 0:
      raise ValueError(
        f"clips={self.clips} must be at least 1, other_language_clips="
        f"{self.other_language_clips} at least 0"
      )
    if not self.headline_kinds:
      raise ValueError("headline_kinds must name a kind of clip")


def score(
  run: str | os.PathLike[str],
  *,
  generator: Generator | None = None,
  clips: int | None = None,
) -> Scores:
  """Sample and score held-out clips of a run; write and return the scores.

  `clips` replaces config.score.clips. Raises ValueError where the data set of
  the run is gone or has no split config.score.split, FileNotFoundError without
  a run.
  """
  run = pathlib.Path(run)
  generator = generator or Generator.from_run(run)
  given = generator.config.to_dict()
  config = section(ScoreConfig, given["score"], "score")
  raw = pathlib.Path(given["data"]["root"]) / store.RAW
  chosen = choose(raw, config.split, clips or config.clips)
  if OTHER_LANGUAGE in store.splits(raw):
    chosen += choose(raw, OTHER_LANGUAGE, config.other_language_clips)
  frames = generator.generate(
    [record["prompt"] for record in chosen],
    [record["speech"] for record in chosen],
    seed=config.seed,
  )
  seen, scores = evaluate(
    chosen,
    list(frames),
    codec=generator.codec,
    clip=generator.clip,
    headline_kinds=config.headline_kinds,
  )
  settings = generator.settings
  guidance = {
    "speech": settings.speech_guidance,
    "text": settings.text_guidance,
  }
  for part in (scores, *scores["kinds"].values()):
    part["guidance"] = guidance
  scores["step"] = generator.step
  save_samples(run / "samples", chosen, list(frames), seen, generator.clip)
  _write_json(run / "scores.json", scores)
  return scores


def choose(raw: str | os.PathLike[str], split: str, count: int) -> list[Record]:
  """Take `count` records of a split, as many of each kind as there are."""
  by_kind: dict[str, list[Record]] = {}
  for record in store.read(raw, split):
    by_kind.setdefault(record["kind"], []).append({**record, "split": split})
  for group in by_kind.values():
    group.sort(key=lambda record: record["name"])
  turns = max(map(len, by_kind.values()), default=0)
  in_turn = [
    group[turn]
    for turn in range(turns)
    for group in by_kind.values()
    if turn < len(group)
  ]
  speaking = [kind for kind in store.KINDS if kind != "text_only"]
  others = sorted(set(by_kind) - {*speaking, "text_only"})
  kinds = [*speaking, *others, "text_only"]
  return sorted(in_turn[:count], key=lambda r: kinds.index(r["kind"]))


def evaluate(
  records: Sequence[Record],
  frames: Frames,
  *,
  codec: Codec,
  clip: ClipFormat,
  headline_kinds: Sequence[str],
) -> tuple[list[Seen], Scores]:
  """Score frames against their records, and the codec's own reconstruction.

  Overall scores are means over the headline kinds, and over text-only clips
  where those have it; but for the swapped correlation, which is the mean over
  all pairs of headline clips. None where there is nothing to measure.
  """
  rebuilt = [codec.decode(codec.encode(record["frames"])) for record in records]
  seen, result = _by_kind(records, frames, clip)
  _, best = _by_kind(records, rebuilt, clip)
  for kind, part in result.items():
    part["mouth_correlation_ceiling"] = best[kind]["mouth_correlation"]
  heads = dict.fromkeys([*headline_kinds, "text_only"])
  scores: Scores = {}
  own = [record["split"] != OTHER_LANGUAGE for record in records]
  scores["split"] = records[own.index(True)]["split"]
  scores["clips"] = sum(own)
  scores["constant_mouths"] = constant_tracks([one.mouths for one in seen])
  for kind, part in result.items():
    part["ceiling"] = best[kind]
    of_kind = [i for i, r in enumerate(records) if own[i] and r["kind"] == kind]
    part["clips"] = len(of_kind)
    part["psnr"] = mean([psnr(frames[i], rebuilt[i]) for i in of_kind])
  scores |= measure.overall(result, list(heads))
  scores["mouth_correlation_swapped"] = swapped_correlation(
    [
      one.mouths
      for one, mine in zip(seen, own, strict=True)
      if mine and one.kind in heads
    ]
  )
  scores["ceiling"] = measure.overall(best, list(heads))
  scores["kinds"] = result
  return seen, scores


def psnr(
  shown: UInt8[np.ndarray, "F H W 3"], wanted: UInt8[np.ndarray, "F H W 3"]
) -> float:
  """Return the peak signal-to-noise ratio of a clip, in dB; at most 100."""
  error = np.mean(np.square(shown.astype(np.float64) - wanted))
  return float(20 * np.log10(255) - 10 * np.log10(max(error, 255**2 * 1e-10)))


def _by_kind(
  records: Sequence[Record], frames: Frames, clip: ClipFormat
) -> tuple[list[Seen], dict[str, Scores]]:
  """Score by kind of the split "test", the other language as one score."""
  own = [i for i, r in enumerate(records) if r["split"] != OTHER_LANGUAGE]
  other = [i for i, r in enumerate(records) if r["split"] == OTHER_LANGUAGE]
  parts = [
    measure.measure_clips([records[i] for i in w], [frames[i] for i in w], clip)
    for w in (own, other)
  ]
  (seen, kinds), (seen_other, foreign) = parts
  for kind, part in kinds.items():
    part["other_language_correlation"] = (
      foreign[kind]["mouth_correlation"] if kind in foreign else None
    )
  in_order = dict(zip([*own, *other], [*seen, *seen_other], strict=True))
  return [in_order[i] for i in sorted(in_order)], kinds


def save_samples(
  folder: pathlib.Path,
  records: Sequence[Record],
  frames: Frames,
  seen: Sequence[Seen],
  clip: ClipFormat,
) -> None:
  """Write what can be watched and looked at again; clips.json comes last."""
  folder.mkdir(parents=True, exist_ok=True)
  rows = []
  for record, shown, one in zip(records, frames, seen, strict=True):
    stem = re.sub(r"[^\w.-]", "_", record["name"])
    names = {"sampled": f"{stem}.mp4", "true": f"{stem}_true.mp4"}
    for key, pictures in (("sampled", shown), ("true", record["frames"])):
      media.write_video(
        folder / names[key],
        enlarge(pictures, max(1, _WATCHABLE // pictures.shape[1])),
        clip.fps,
        record["speech"] if len(record["speech"]) else None,
        clip.sample_rate,
      )
    rows.append(
      names
      | {key: record[key] for key in ("name", "kind", "split", "prompt")}
      | {
        "mouth_correlation": mouth_correlation([one.mouths]),
        "mouths": measure.curves(one),
      }
    )
  partial = folder / ".frames.npz.partial"
  with partial.open("wb") as file:
    np.savez_compressed(
      file,
      names=np.array([record["name"] for record in records]),
      frames=np.stack(list(frames)),
    )
  partial.replace(folder / "frames.npz")
  _write_json(folder / "clips.json", rows)


def _write_json(path: pathlib.Path, value: Mapping | Sequence) -> None:
  partial = path.with_name(f".{path.name}.partial")
  text = json.dumps(value, indent=2, allow_nan=False) + "\n"
  partial.write_text(text, encoding="utf-8")
  partial.replace(path)
