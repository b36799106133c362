from typing import Any

import pytest
from ml_collections import ConfigDict

from mocha_jax import overrides


def changed(*arguments) -> Any:
  config = ConfigDict(
    dict(
      model=dict(heads=8, rate=0.5, causal=False, name="a", grid=(1, 2)),
      data=dict(stages=(dict(steps=1),)),
    )
  )
  return overrides.apply(config.lock(), arguments)


def test_overrides_keep_the_types():
  model = changed(
    "--config.model.heads=4",
    "--config.model.rate=1",
    "--config.model.causal=true",
    "--config.model.name=7",
    "--config.model.grid=(3, 4)",
  ).model
  assert model.to_dict() == dict(
    heads=4, rate=1.0, causal=True, name="7", grid=(3, 4)
  )
  assert type(model.rate) is float


def test_override_reaches_into_a_tuple():
  assert changed("--config.data.stages[0].steps=9").data.stages[0]["steps"] == 9


def test_last_override_of_a_key_holds():
  config = changed("--config.model.heads=4", "--config.model.heads=2")
  assert config.model.heads == 2


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--config.model.haeds=4", 'unknown key "haeds"; nearest is "heads"'),
    ("--config.modle.heads=4", 'unknown key "modle"; nearest is "model"'),
    ("--config.model.heads.x=4", "8 has no x"),
    ("--config.model.heads=many", "--config.model.heads=many"),
    ("--config.model.heads=1.5", "--config.model.heads=1.5"),
    ("--config.model.causal=perhaps", "--config.model.causal=perhaps"),
    ("--config.model.heads", "--config.model.heads"),
    ("--config.data.stages[4].steps=1", "[4] is beyond 1 entries"),
    ("--config.data.stages[0].stps=1", 'nearest is "steps"'),
  ],
)
def test_wrong_override_is_named(argument, message):
  with pytest.raises(ValueError) as caught:
    changed(argument)
  assert message in str(caught.value)


def test_overrides_are_told_from_the_other_arguments():
  arguments = ["--config", "toy", "--config.a.b=1", "folder", "--run=x"]
  assert overrides.split(arguments) == (
    ["--config.a.b=1"],
    ["--config", "toy", "folder", "--run=x"],
  )
