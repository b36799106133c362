"""Scores of Cartoon Talkers clips: what is seen in frames, against the truth.

The truth says where to look (who stands where, between which frames) and is
compared with what was read there; the reading itself never sees it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.toy import palette
from mocha_jax.evaluation import cartoon, lip_sync
from mocha_jax.evaluation.cartoon import Place, Reading
from mocha_jax.evaluation.lip_sync import Mouths
from mocha_jax.evaluation.table import SCORES
from mocha_jax.media import ClipFormat

Scores = dict[str, Any]

_LOOKS = ("skin", "hair", "shirt")
# Standard deviations of an opening: sides of a cut are judged where the true
# mouth's is this high, and the measured mouth moves from half of it.
_SPEAKS = 0.10
_MOVES = _SPEAKS / 2


@dataclasses.dataclass(frozen=True)
class Seen:
  """What is seen in one clip, and how often it is right."""

  name: str
  kind: str
  mouths: Mouths
  attributes: tuple[bool, ...]
  emotions: tuple[bool, ...]
  actions: tuple[bool, ...]
  speakers: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class _Sight:
  """One person in one place, and what was read there."""

  person: int
  place: Place
  reading: Reading


def see(
  record: Mapping[str, Any],
  frames: UInt8[np.ndarray, "F H W 3"],
  clip: ClipFormat,
) -> Seen:
  """Read frames that should show what a raw record tells.

  Raises ValueError for frames of another number or size than the record's.
  """
  if frames.shape != record["frames"].shape:
    raise ValueError(
      f"{record['name']}: frames {frames.shape} to compare with"
      f" {record['frames'].shape}"
    )
  people = json.loads(record["attributes"])
  silent = record["kind"] == "text_only"
  actions = palette.SILENT_ACTIONS if silent else palette.ACTIONS
  sights = []
  for person, truth in enumerate(people):
    for given in truth["places"]:
      place = Place(**given)
      reading = cartoon.read(frames, place, actions=actions)
      sights.append(_Sight(person, place, reading))
  return Seen(
    name=record["name"],
    kind=record["kind"],
    mouths=_mouths(record, sights, clip),
    attributes=tuple(
      getattr(s.reading, look) == people[s.person][look]
      for s in sights
      for look in _LOOKS
    ),
    emotions=tuple(
      s.reading.emotion == people[s.person]["emotion"] for s in sights
    ),
    actions=tuple(
      s.reading.action == people[s.person]["action"] for s in sights
    ),
    speakers=_right_speakers(record, people, sights),
  )


def _mouths(
  record: Mapping[str, Any], sights: Sequence[_Sight], clip: ClipFormat
) -> Mouths:
  measured = np.zeros_like(record["mouth"])
  for sight in sights:
    place = sight.place
    measured[sight.person, place.start : place.stop] = sight.reading.mouth
  return Mouths(
    name=record["name"],
    measured=measured,
    truth=record["mouth"],
    viseme=record["viseme"],
    speaker=record["speaker"],
    visible=record["visible"],
    loudness=lip_sync.loudness(
      record["speech"],
      sample_rate=clip.sample_rate,
      fps=clip.fps,
      frames=clip.frames,
    ),
  )


def _right_speakers(
  record: Mapping[str, Any],
  people: Sequence[Mapping[str, Any]],
  sights: Sequence[_Sight],
) -> tuple[bool, ...]:
  """Judge each side of each cut: is it the right person whose mouth moves?

  Two in a shot: the mouth that moves most is the speaker's. One of two: the
  mouth moves, and the looks are more the speaker's than anyone else's. Sides
  where the true mouth stands still say nothing; nor do clips with one person.
  """
  if len(people) < 2:
    return ()
  sides: dict[int, list[_Sight]] = {}
  for sight in sights:
    sides.setdefault(sight.place.start, []).append(sight)
  judged = []
  for start, present in sides.items():
    speaker = int(record["speaker"][start])
    stop = present[0].place.stop
    if speaker < 0 or record["mouth"][speaker, start:stop].std() < _SPEAKS:
      continue
    loudest = max(present, key=lambda s: float(s.reading.mouth.std()))
    moves = loudest.reading.mouth.std() >= _MOVES
    who = loudest.person if len(present) > 1 else _likest(loudest, people)
    judged.append(bool(moves and who == speaker))
  return tuple(judged)


def _likest(sight: _Sight, people: Sequence[Mapping[str, Any]]) -> int:
  """Return whose looks are seen, or -1 if two are as like."""
  alike = [
    sum(getattr(sight.reading, look) == person[look] for look in _LOOKS)
    for person in people
  ]
  best = int(np.argmax(alike))
  return best if alike.count(alike[best]) == 1 else -1


def scores(seen: Sequence[Seen]) -> Scores:
  """Score clips of one kind; None where there is nothing to measure."""
  mouths = [clip.mouths for clip in seen]
  return {
    "mouth_correlation": lip_sync.mouth_correlation(mouths),
    "mouth_correlation_swapped": lip_sync.swapped_correlation(mouths),
    "loudness_correlation": lip_sync.loudness_correlation(mouths),
    "viseme_closed_accuracy": lip_sync.viseme_closed_accuracy(mouths),
    "rest_in_silence": lip_sync.rest_in_silence(mouths),
    "listener_at_rest": lip_sync.listener_at_rest(mouths),
    "right_speaker": _share([clip.speakers for clip in seen]),
    "attribute_accuracy": _share([clip.attributes for clip in seen]),
    "emotion_accuracy": _share([clip.emotions for clip in seen]),
    "action_accuracy": _share([clip.actions for clip in seen]),
  }


def _share(hits: Sequence[tuple[bool, ...]]) -> float | None:
  return lip_sync.mean([float(hit) for clip in hits for hit in clip])


def overall(
  kinds: Mapping[str, Scores], headline_kinds: Sequence[str]
) -> Scores:
  """Average each score over those kinds that are headlines and have it."""
  chosen = [kinds[kind] for kind in headline_kinds if kind in kinds]
  keys = [
    key
    for key in (*SCORES, "mouth_correlation_ceiling")
    if all(key in one for one in kinds.values())
  ]
  return {key: lip_sync.mean([one[key] for one in chosen]) for key in keys}


def measure_clips(
  records: Sequence[Mapping[str, Any]],
  frames: Sequence[UInt8[np.ndarray, "F H W 3"]],
  clip: ClipFormat,
) -> tuple[list[Seen], dict[str, Scores]]:
  """Read frames against their records; scores by kind, in the given order."""
  seen = [
    see(record, shown, clip)
    for record, shown in zip(records, frames, strict=True)
  ]
  kinds = dict.fromkeys(one.kind for one in seen)
  by_kind = {
    kind: scores([one for one in seen if one.kind == kind]) for kind in kinds
  }
  return seen, by_kind


def curves(seen: Seen) -> list[dict[str, Any]]:
  """Return the mouths of a clip for drawing: a dict for each person seen."""
  mouths = seen.mouths
  result = []
  for person in range(len(mouths.measured)):
    frames = np.flatnonzero(mouths.visible[person])
    if len(frames):
      result.append(
        {
          "person": f"Person{person + 1}",
          "frames": frames.tolist(),
          "measured": _rounded(mouths.measured[person, frames]),
          "truth": _rounded(mouths.truth[person, frames]),
        }
      )
  return result


def _rounded(values: Float[np.ndarray, "F"]) -> list[float]:
  return [round(float(v), 4) for v in values]
