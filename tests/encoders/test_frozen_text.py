"""What T5 and CLIP have in common, and what sets them apart."""

import jax
import numpy as np
import pytest

from experiments import _encoders
from mocha_jax import encoders
from mocha_jax.encoders import t5
from tests import frozen_encoders, numerics

SECTIONS = [
  frozen_encoders.UMT5,
  frozen_encoders.BYT5,
  frozen_encoders.CLIP,
]
T5S = SECTIONS[:2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Encoders by name."""
  return {
    section["name"]: frozen_encoders.make(
      frozen_encoders.with_weights(
        section, tmp_path_factory.mktemp(section["name"])
      )
    )
    for section in SECTIONS
  }


names = pytest.mark.parametrize("name", ["umt5", "byt5", "clip_text"])


@names
def test_features_are_zero_where_there_is_no_token(made, name):
  encoder = made[name]
  features, masks = encoder.many(["", "A man.", "A woman in red."])
  assert features.shape == (3, 24, 16) == (3, encoder.length, encoder.width)
  assert features.dtype == np.float32
  np.testing.assert_array_equal(masks.sum(1), [1, 7, 16])
  np.testing.assert_array_equal(np.abs(features).max(-1) > 0, masks)


@names
def test_prompt_does_not_depend_on_those_beside_it(made, name):
  together, _ = made[name].many(["Red.", "A blue hat.", "x"])
  for prompt, features in zip(
    ["Red.", "A blue hat.", "x"], together, strict=True
  ):
    numerics.assert_same(made[name](prompt)[0], features)


@names
def test_long_prompt_is_refused_or_cut(made, name):
  encoder = made[name]
  with pytest.raises(ValueError, match=rf"31 tokens of {name}, .* limit is 24"):
    encoder("a" * 30)
  cut = type(encoder)(
    type(encoder.config)(**vars(encoder.config) | dict(cut=True))
  )
  ids, mask = cut.tokens("a" * 30)
  assert mask.all()
  assert ids.tolist() == [ord("a") + 3] * 23 + [1]


def test_t5_sees_all_tokens_and_clip_none_that_follow(made):
  """Prompts that differ in their last letter."""
  for name, encoder in made.items():
    one, other = encoder.many(["a red hat", "a red ham"])[0]
    moved = np.flatnonzero(np.abs(one - other).max(-1) > 0)
    want = [8, 9] if name == "clip_text" else [*range(10)]
    np.testing.assert_array_equal(moved, want)


def test_padding_does_not_change_what_is_there(made):
  """With more of it, the numbers stay; but where CLIP's positions stretch."""
  encoder = made["umt5"]
  config = type(encoder.config)(**vars(encoder.config) | dict(length=40))
  longer = t5.T5Text(config)
  short, mask = encoder("A red hat.")
  long, _ = longer("A red hat.")
  numerics.assert_close(long[:24][mask], short[mask], np.float32, 40)


def test_positions_are_shared_or_every_layer_has_its_own(made):
  assert made["byt5"].params["positions"].shape == (8, 2)
  assert "positions" not in made["byt5"].params["blocks"]
  assert made["umt5"].params["blocks"]["positions"].shape == (2, 8, 2)
  assert "positions" not in made["umt5"].params


def test_buckets_are_exact_near_by_and_logarithmic_far_away():
  first, last = t5.buckets(200, 32, 128)[[0, -1]]
  np.testing.assert_array_equal(first[:9], [0, *range(17, 24), 24])
  # 8 (128 / 8)^(k / 8): 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5.
  starts = [np.flatnonzero(first == 24 + k)[0] for k in range(8)]
  assert starts == [8, 12, 16, 23, 32, 46, 64, 91]
  np.testing.assert_array_equal(first[91:], 31)
  np.testing.assert_array_equal(last[::-1], np.where(first, first - 16, 0))


def test_bfloat16_halves_the_weights(made):
  encoder = made["byt5"]
  config = type(encoder.config)(**vars(encoder.config) | dict(dtype="bfloat16"))
  half = t5.T5Text(config)
  assert {x.dtype.name for x in jax.tree.leaves(half.params)} == {"bfloat16"}
  got, want = half("A red hat.")[0], encoder("A red hat.")[0]
  assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_several_encoders_have_sections_of_their_own():
  several = dict(
    ul2=_encoders.ul2(),
    byt5=_encoders.byt5_small(),
    metaclip=_encoders.metaclip(),
  )
  found = encoders.make_text_encoders(several)
  assert {k: x.width for k, x in found.items()} == dict(
    ul2=4096, byt5=1472, metaclip=1280
  )
  assert {x.length for x in found.values()} == {256}
  (alone,) = encoders.make_text_encoders(_encoders.umt5_xxl()).values()
  assert (alone.width, alone.length) == (4096, 512)


@pytest.mark.parametrize(
  "config, message",
  [
    ({}, "text_encoder is empty: it must name an encoder"),
    (
      dict(ul2=dict(frozen_encoders.UL2, name="ul3")),
      "text_encoder.ul2.name =",
    ),
    (dict(ul2=dict(weights="")), "text_encoder.ul2.name is missing"),
    (
      dict(a=dict(frozen_encoders.UL2, length=0)),
      r"text_encoder.a: length=0 must be above 0",
    ),
  ],
)
def test_sections_are_checked(config, message):
  with pytest.raises(ValueError, match=message):
    encoders.make_text_encoders(config)


def test_missing_tokenizer_is_found_before_the_weights_are_read(made):
  encoder = made["umt5"]
  config = type(encoder.config)(
    **vars(encoder.config) | dict(tokenizer="x.json")
  )
  with pytest.raises(ValueError, match=r"'x.json' is no file"):
    encoders.check_files([t5.T5Text(config)])
