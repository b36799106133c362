"""Which scores there are, what each means, and the table that shows them."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

# Key -> (title, what it says). The order is that of every table.
SCORES = {
  "mouth_correlation": (
    "Mouth correlation",
    "measured mouth opening against the true one, per speaking person",
  ),
  "mouth_correlation_swapped": (
    "… swapped",
    "against the true mouths of all other clips; near 0 is right",
  ),
  "loudness_correlation": (
    "… loudness alone",
    "the best that a mouth following loudness alone would reach",
  ),
  "other_language_correlation": (
    "… other language",
    "on speech in a language that training never heard",
  ),
  "viseme_closed_accuracy": (
    "Closed on m, b, p",
    "frames in which the lips meet although the sound is loud",
  ),
  "rest_in_silence": (
    "At rest in silence",
    "frames in pauses and in clips without speech",
  ),
  "listener_at_rest": (
    "Listener at rest",
    "frames of who listens in the same shot",
  ),
  "right_speaker": (
    "Right speaker",
    "whose mouth moves, on each side of the cut",
  ),
  "attribute_accuracy": (
    "Attributes",
    "skin, shirt and hair as the caption says",
  ),
  "emotion_accuracy": ("Emotion", "brows as the caption says"),
  "action_accuracy": ("Action", "arm as the caption says"),
  "psnr": (
    "PSNR",
    "against the true clip through the codec, for clips known by heart",
  ),
}
CORRELATIONS = tuple(key for key in SCORES if "correlation" in key)


def shown(key: str, value: float | None) -> str:
  """Write a score: correlations with two digits, shares as per cent."""
  if value is None:
    return "–"
  if key == "psnr":
    return f"{value:.1f} dB"
  return f"{value:.2f}" if key in CORRELATIONS else f"{value:.0%}"


def ceiling(scores: Mapping[str, Any], key: str) -> float | None:
  """Return what the codec's own reconstruction reaches, or None."""
  if key in ("mouth_correlation_swapped", "loudness_correlation", "psnr"):
    return None
  return scores["ceiling"][key]


def table(scores: Mapping[str, Any]) -> Table:
  """Lay out the scores for the terminal: overall, ceiling, and per kind."""
  kinds = scores["kinds"]
  result = Table(
    title=f"Scores of {scores['clips']} clips of {scores['split']}"
  )
  result.add_column("score")
  result.add_column("all", justify="right", style="bold")
  result.add_column("ceiling", justify="right", style="dim")
  for kind in kinds:
    result.add_column(kind.replace("_", " "), justify="right")
  for key, (title, _) in SCORES.items():
    result.add_row(
      title,
      shown(key, scores[key]),
      shown(key, ceiling(scores, key)),
      *(shown(key, kinds[kind][key]) for kind in kinds),
    )
  counts = (str(kinds[kind]["clips"]) for kind in kinds)
  result.add_row("Clips", str(scores["clips"]), "", *counts)
  return result
