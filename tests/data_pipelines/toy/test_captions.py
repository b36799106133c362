import random
import re

import pytest

from data_pipelines.toy import build, captions, scene, tasks
from mocha_jax import config, prompts
from mocha_jax.sections import section


def drawn(kind: str, count: int, *, held_out: bool) -> list[scene.Scene]:
  rng = random.Random(f"{kind}{held_out}")
  return [
    scene.sample(kind, rng, held_out=held_out, frames=48) for _ in range(count)
  ]


def words(text: str) -> set[str]:
  return set(re.findall(r"\w+", text))


def test_captions_that_quickstart_trains_on_have_every_word_of_held_out_ones():
  given = config.load("quickstart").to_dict()
  toy = section(build.ToyConfig, given["toy"], "toy")

  def said(split, kind, count):
    drawn = (tasks.Task(toy.seed, split, kind, i) for i in range(count))
    frames = given["clip"]["frames"]
    return words(" ".join(captions.caption(t.scene(frames)) for t in drawn))

  kinds = {kind: count for kind, count in toy.train.items() if count}
  assert len(kinds) == 3
  assert {kind for kind, count in toy.test.items() if count} <= set(kinds)
  known = set().union(*(said("train", *item) for item in kinds.items()))
  for kind in kinds:
    assert said("test", kind, 300) <= known


def test_training_captions_have_every_word_of_test_captions():
  train = [k for k in scene.KINDS if k != "dialogue_aba"]
  known, tested = set(), set()
  for kind in train:
    for plan in drawn(kind, 150, held_out=False):
      known |= words(captions.caption(plan))
  for kind in scene.KINDS:
    for plan in drawn(kind, 100, held_out=True):
      tested |= words(captions.caption(plan))
  assert tested <= known


@pytest.mark.parametrize("kind", scene.KINDS)
def test_caption_is_short_and_parses_back(kind):
  longest = 60 if len(drawn(kind, 1, held_out=True)[0].people) == 1 else 90
  if kind == "text_only":  # Up to three clips.
    longest = 90
  for plan in drawn(kind, 50, held_out=True):
    text = captions.caption(plan)
    assert len(text.split()) <= longest
    parsed = prompts.parse(text)
    assert len(parsed.clips) == len(plan.takes)
    assert len(parsed.characters) == (len(plan.people) if plan.tags else 0)
    assert ("Person" in text) == plan.tags


@pytest.mark.parametrize("kind", scene.KINDS)
def test_caption_states_every_attribute(kind):
  for plan in drawn(kind, 50, held_out=True):
    text = captions.caption(plan)
    for look in plan.people:
      assert captions.describe(look) in text
      for value in (look.skin, look.hair, look.eyes, look.shirt, look.style):
        assert value in captions.describe(look)


def test_scenes_that_differ_have_captions_that_differ():
  plans = drawn("two_shot", 200, held_out=False)
  said = {captions.caption(plan) for plan in plans}
  assert len(said) == len(set(plans))


def test_a_share_of_captions_goes_without_tags():
  tagged = [plan.tags for plan in drawn("close_up", 200, held_out=False)]
  assert 0.5 < sum(tagged) / len(tagged) < 0.9
