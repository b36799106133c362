import itertools
import random

import pytest

from data_pipelines.toy import palette, scene


def drawn(kind: str, count: int = 200, *, held_out=False, frames=48):
  rng = random.Random(f"{kind}{held_out}{frames}")
  return [
    scene.sample(kind, rng, held_out=held_out, frames=frames)
    for _ in range(count)
  ]


def combinations(held_out: bool) -> set[tuple[str, str, str]]:
  return {
    (look.skin, look.hair, look.shirt)
    for kind in scene.KINDS
    for plan in drawn(kind, held_out=held_out)
    for look in plan.people
  }


def test_held_out_combinations_never_occur_in_training():
  train, test = combinations(held_out=False), combinations(held_out=True)
  assert test and not train & test


def test_every_two_of_skin_hair_and_shirt_occur_together_in_training():
  train = combinations(held_out=False)
  values = (palette.SKINS, palette.HAIRS, palette.SHIRTS)
  for a, b in itertools.combinations(range(3), 2):
    seen = {(look[a], look[b]) for look in train}
    assert seen == set(itertools.product(values[a], values[b]))


@pytest.mark.parametrize("frames", [16, 32, 48, 33, 49, 125])
@pytest.mark.parametrize("kind", scene.KINDS)
def test_takes_cover_the_clip_and_cuts_fall_between_latents(kind, frames):
  for plan in drawn(kind, 50, frames=frames):
    edges = [take.start for take in plan.takes] + [plan.takes[-1].end]
    assert edges[0] == 0 and edges[-1] == frames
    assert edges == sorted(set(edges))
    assert [take.end for take in plan.takes] == edges[1:]
    for cut in plan.cuts:
      assert (cut - frames % 4) % 4 == 0


def test_dialogue_gives_each_clip_to_one_person():
  for kind, persons in (("dialogue", [0, 1]), ("dialogue_aba", [0, 1, 0])):
    for plan in drawn(kind, 20):
      assert [take.speaker for take in plan.takes] == persons
      assert [take.cast[0][0] for take in plan.takes] == persons


def test_two_shot_numbers_people_from_left_to_right_and_has_either_speak():
  takes = [plan.takes[0] for plan in drawn("two_shot")]
  assert {take.cast for take in takes} == {((0, "left"), (1, "right"))}
  assert {take.speaker for take in takes} == {0, 1}


def test_two_people_share_neither_hair_nor_shirt():
  for plan in drawn("two_shot") + drawn("dialogue"):
    a, b = plan.people
    assert a.hair != b.hair and a.shirt != b.shirt


def test_only_clips_without_speech_show_the_silent_actions():
  silent = {plan.people[0].action for plan in drawn("text_only")}
  spoken = {plan.people[0].action for plan in drawn("close_up")}
  assert silent == set(palette.SILENT_ACTIONS)
  assert spoken == set(palette.ACTIONS)


def test_clips_without_speech_have_no_speaker_and_some_have_cuts():
  plans = drawn("text_only")
  assert {take.speaker for plan in plans for take in plan.takes} == {-1}
  assert {len(plan.takes) for plan in plans} == {1, 2, 3}


def test_unknown_kind_and_too_few_frames_are_refused():
  with pytest.raises(ValueError, match="kind='extra_close_up' must be one of"):
    drawn("extra_close_up", 1)
  with pytest.raises(ValueError, match="8 frames are too few for 3 clips"):
    drawn("dialogue_aba", 1, frames=8)
