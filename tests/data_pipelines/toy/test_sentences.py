import random
import re

from data_pipelines.toy import sentences


def drawn(held_out: bool, count: int = 2000) -> list[str]:
  rng = random.Random(0)
  return [sentences.english(rng, held_out=held_out) for _ in range(count)]


def test_hardly_a_sentence_comes_twice():
  assert len(set(drawn(held_out=False))) > 1800


def test_held_out_sentences_are_never_drawn_for_training():
  assert not set(drawn(held_out=True)) & set(drawn(held_out=False))


def test_training_has_every_word_of_held_out_sentences():
  known, tested = (
    set(re.findall(r"\w+", " ".join(drawn(held_out)).lower()))
    for held_out in (False, True)
  )
  assert tested <= known


def test_sentences_are_rich_in_lips():
  text = " ".join(drawn(held_out=False)).lower()
  letters = [c for c in text if c.isalpha()]
  assert sum(c in "mbpfvoua" for c in letters) > 0.4 * len(letters)


def test_no_slot_stays_open():
  assert not any(c in s for s in drawn(held_out=False) for c in "{}")
