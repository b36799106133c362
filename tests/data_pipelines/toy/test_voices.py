import random

from data_pipelines.toy import voices


def drawn(held_out: bool) -> set[str]:
  rng = random.Random(0)
  return {
    voices.english(rng, gender, held_out=held_out).name
    for gender in ("man", "woman") * 300
  }


def test_held_out_voices_are_never_heard_in_training():
  assert not drawn(held_out=True) & drawn(held_out=False)


def test_training_hears_every_accent_and_every_variant():
  heard = [name.split("+") for name in drawn(held_out=False)]
  tested = [name.split("+") for name in drawn(held_out=True)]
  for part in (0, 1):
    assert {name[part] for name in tested} <= {name[part] for name in heard}


def test_men_and_women_share_no_variant():
  rng = random.Random(0)
  men, women = (
    {voices.english(rng, who, held_out=False).name for _ in range(200)}
    for who in ("man", "woman")
  )
  assert not men & women
