import random
import re
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.toy import captions, scene
from mocha_jax import encoders
from mocha_jax.encoders import small_text


def make(unit="words", vocabulary=4096, length=16):
  config = dict(
    name="small_text", unit=unit, vocabulary=vocabulary, length=length
  )
  made = encoders.make_text_encoders(config)
  assert list(made) == ["small_text"]
  return made["small_text"]


@pytest.mark.parametrize("unit", ["words", "bytes"])
def test_ids_are_padded_and_masked(unit):
  encoder = make(unit)
  ids, mask = encoder("Hi, é!")
  tokens = {"words": 5, "bytes": 8}[unit]  # With the begin token.
  assert ids.shape == mask.shape == (16,)
  assert (ids.dtype, mask.dtype) == (np.int32, np.bool_)
  assert (encoder.width, encoder.length) == (0, 16)
  np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(tokens))
  np.testing.assert_array_equal(ids != small_text.PADDING, mask)
  assert ids[0] == small_text.BEGIN
  assert ids.max() < 4096


@pytest.mark.parametrize("unit", ["words", "bytes"])
def test_empty_prompt_has_a_token(unit):
  _, mask = make(unit)("")
  assert mask.sum() == 1


def test_ids_do_not_change_between_processes():
  """Python's own hash would, and records would then not match the model."""
  program = (
    "from mocha_jax import encoders;"
    "c = dict(name='small_text', unit='words', vocabulary=99, length=9);"
    "print(encoders.make_text_encoders(c)['small_text']('A red shirt.')[0])"
  )
  printed = [
    subprocess.run(
      [sys.executable, "-c", program],
      env={"PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for seed in "12"
  ]
  assert printed[0] == printed[1] != ""


def test_case_and_spacing_do_not_matter_but_words_and_order_do():
  encoder = make()
  ids = [
    tuple(encoder(prompt)[0])
    for prompt in ("A red hat.", " a RED  hat .", "A blue hat.", "hat red a.")
  ]
  assert ids[0] == ids[1]
  assert len(set(ids)) == 3


def test_bytes_say_exactly_the_prompt():
  ids, mask = make("bytes")("Größe")
  text = bytes(int(i) - 2 for i in ids[mask][1:]).decode()
  assert text == "Größe"


def test_words_of_the_toy_captions_have_ids_of_their_own():
  """Two attributes of one id could not be told apart."""
  encoder = make(vocabulary=4096, length=256)
  words, ids = set(), set()
  for kind in scene.KINDS:
    for seed in range(100):
      rng = random.Random(f"{kind} {seed}")
      plan = scene.sample(kind, rng, held_out=False, frames=48)
      prompt = captions.caption(plan)
      tokens, mask = encoder(prompt)
      words |= set(re.findall(r"\w+|[^\w\s]", prompt.lower()))
      ids |= set(tokens[mask][1:].tolist())
  assert len(words) == len(ids) > 80


@pytest.mark.parametrize("unit, tokens", [("words", 17), ("bytes", 33)])
def test_long_prompt_is_refused_with_both_lengths(unit, tokens):
  assert make(unit, length=tokens)("a " * 16)[1].all()
  with pytest.raises(ValueError, match=f"{tokens} tokens.*limit is 16"):
    make(unit)("a " * 16)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(unit="bytes", vocabulary=257), "vocabulary=257 must be at least 258"),
    (dict(vocabulary=2), "must be at least 3"),
    (dict(length=0), "length=0 must be at least 1"),
    (dict(unit="letters"), "unit"),
  ],
)
def test_config_is_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    make(**changes)


def test_unknown_encoder_names_the_nearest():
  with pytest.raises(ValueError, match='nearest is "small_text"'):
    encoders.make_text_encoders(dict(name="smal_text"))
  with pytest.raises(ValueError, match="name is missing"):
    encoders.make_text_encoders(dict(unit="words"))
