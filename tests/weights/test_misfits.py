import pytest

from mocha_jax.weights import misfits
from mocha_jax.weights.misfits import Item


def test_layers_are_one_item():
  items = [Item("missing", f"blocks.{i}.ffn.0.up") for i in (0, 1, 2, 7, 9, 10)]
  items += [Item("missing", "blocks.5.q"), Item("extra", "z", " (2,)")]
  assert str(misfits.misfit(items)) == (
    "8 tensors do not fit: missing blocks.{0..2,7,9..10}.ffn.0.up; "
    "missing blocks.5.q; extra z (2,)"
  )


def test_layers_that_differ_in_what_is_wrong_stay_apart():
  items = [Item("extra", f"blocks.{i}.q", f" ({i // 2},)") for i in range(4)]
  assert str(misfits.misfit(items)).endswith(
    ": extra blocks.{0..1}.q (0,); extra blocks.{2..3}.q (1,)"
  )


def test_one_is_not_many():
  said = str(misfits.misfit([Item("extra", "z")]))
  assert said == "1 tensor does not fit: extra z"
  assert str(misfits.strangers({"z": 0}, "ours")) == (
    "none of its tensors (1) has a name of ours; first comes z"
  )


def test_some_twenty_are_listed_of_every_kind_and_the_others_counted():
  items = [Item("missing", f"a{i}.{j}") for i in range(30) for j in range(3)]
  items += [Item("extra", f"b{i}") for i in range(200)]
  said = str(misfits.misfit(items))
  assert said.startswith(
    "290 tensors do not fit: missing a0.{0..2}; missing a1"
  )
  assert said.endswith("extra b9; and 250 more (60 missing, 190 extra)")
  assert said.count("missing a") == said.count("extra b") == 10


def test_what_does_not_fit_begins_with_its_file():
  with (
    pytest.raises(ValueError, match=r"^x\.pth: 1 tensor does not fit"),
    misfits.of("x.pth"),
  ):
    raise misfits.misfit([Item("extra", "z")])
  with pytest.raises(ValueError, match=r"^other"), misfits.of("x.pth"):
    raise ValueError("other")
