import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from typing import Literal

import pytest
from ml_collections import ConfigDict

from mocha_jax import config as configs


@dataclasses.dataclass(frozen=True)
class Stage:
  steps: int
  weights: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Net:
  heads: int
  rate: float
  order: Literal["none", "slots", "rope"]
  causal: bool
  name: str
  limit: int | None
  stages: tuple[Stage, ...]
  grid: tuple[int, int]

  def __post_init__(self):
    if self.heads < 1:
      raise ValueError(f"heads = {self.heads}: must be at least 1")


def net(**changes) -> ConfigDict:
  values = dict(
    heads=8,
    rate=0.5,
    order="slots",
    causal=False,
    name="net",
    limit=None,
    stages=(dict(steps=1, weights=dict(close_up=0.8)),),
    grid=(4, 8),
  )
  return ConfigDict(values | changes)


def error(mapping, cls=Net) -> str:
  with pytest.raises(ValueError) as caught:
    configs.section(cls, mapping, "model")
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_section_becomes_the_dataclass_with_everything_nested():
  assert configs.section(Net, net(), "model") == Net(
    heads=8,
    rate=0.5,
    order="slots",
    causal=False,
    name="net",
    limit=None,
    stages=(Stage(steps=1, weights={"close_up": 0.8}),),
    grid=(4, 8),
  )


def test_section_takes_a_plain_dict_and_lists_for_tuples():
  values = net().to_dict() | dict(
    grid=[4, 8], stages=[dict(steps=1, weights=dict(close_up=0.8))]
  )
  assert configs.section(Net, values, "model") == configs.section(
    Net, net(), "model"
  )


def test_int_is_taken_for_float_and_becomes_one():
  rate = configs.section(Net, net(rate=1), "model").rate
  assert (rate, type(rate)) == (1.0, float)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("heads", "8", 'config.model.heads = "8": expected int'),
    ("heads", 8.0, "config.model.heads = 8.0: expected int"),
    ("heads", True, "config.model.heads = True: expected int"),
    ("heads", None, "config.model.heads = None: expected int"),
    ("rate", "x", 'config.model.rate = "x": expected float'),
    ("rate", True, "config.model.rate = True: expected float"),
    ("causal", 1, "config.model.causal = 1: expected bool"),
    ("name", 3, "config.model.name = 3: expected str"),
    ("limit", "x", 'config.model.limit = "x": expected int or None'),
    ("grid", (4, 8, 8), "config.model.grid = (4, 8, 8): expected tuple"),
    ("grid", (4, "8"), 'config.model.grid[1] = "8": expected int'),
    ("stages", 3, "config.model.stages = 3: expected tuple"),
    ("stages", (3,), "config.model.stages[0] = 3: expected a section of keys"),
  ],
)
def test_wrong_type_names_key_value_and_rule(key, value, message):
  assert error(net(**{key: value})).startswith(message)


def test_unknown_choice_names_the_choices_and_the_nearest():
  assert error(net(order="slot")) == (
    'config.model.order = "slot": expected one of "none", "slots", "rope";'
    ' nearest is "slots"'
  )


def test_unknown_key_names_its_value_and_the_nearest():
  assert error(net(haeds=4)) == (
    'config.model.haeds = 4: unknown key; nearest is "heads"'
  )


def test_unknown_key_in_a_nested_section_names_the_whole_path():
  message = error(net(stages=(dict(step=1, weights={}),)))
  assert message == (
    'config.model.stages[0].step = 1: unknown key; nearest is "steps"'
  )


def test_wrong_value_in_a_mapping_names_the_whole_path():
  message = error(net(stages=(dict(steps=1, weights=dict(medium="x")),)))
  assert message == (
    'config.model.stages[0].weights.medium = "x": expected float'
  )


def test_missing_key_is_named():
  values = net().to_dict()
  del values["heads"]
  assert error(values) == "config.model.heads is missing: expected int"


def test_error_of_the_dataclass_names_the_section():
  assert error(net(heads=0)) == "config.model: heads = 0: must be at least 1"


def test_json_gives_the_same_config_back():
  config = ConfigDict(dict(model=net(), seed=0, rate=1e-5, whole=1.0))
  again = configs.from_json(configs.to_json(config))
  assert again.to_dict() == config.to_dict()
  assert type(again.whole) is float
  assert configs.to_json(again) == configs.to_json(config)


def test_config_does_not_differ_from_its_copy_nor_lists_from_tuples():
  a = ConfigDict(dict(model=net(grid=(4, 8))))
  b = ConfigDict(dict(model=net(grid=[4, 8])))
  assert configs.difference(a, b) == {}


def test_difference_names_each_key_once_with_both_values():
  a = ConfigDict(dict(model=net(heads=8), only_a=1))
  b = ConfigDict(
    dict(model=net(heads=4, stages=(dict(steps=9, weights={}),)), flag=True)
  )
  assert configs.difference(a, b) == {
    "model.heads": (8, 4),
    "model.stages[0].steps": (1, 9),
    "model.stages[0].weights": (configs.ABSENT, {}),
    "model.stages[0].weights.close_up": (0.8, configs.ABSENT),
    "only_a": (1, configs.ABSENT),
    "flag": (configs.ABSENT, True),
  }


def test_bool_is_not_the_number_that_equals_it():
  a, b = ConfigDict(dict(x=True)), ConfigDict(dict(x=1))
  assert configs.difference(a, b) == {"x": (True, 1)}


def test_every_experiment_loads_and_is_locked():
  for name in configs.names():
    config = configs.load(name)
    with pytest.raises(AttributeError):
      config.no_such_key = 1


def test_experiments_do_not_include_what_they_start_from():
  assert "_base" not in configs.names()


def test_unknown_experiment_names_the_nearest(monkeypatch):
  monkeypatch.setattr(configs, "names", lambda: ["quickstart", "toy_large"])
  with pytest.raises(ValueError, match='nearest is "quickstart"'):
    configs.load("quikstart")


def test_experiment_is_loaded_from_a_path(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "from experiments import _base\n"
    "def get_config():\n"
    "  config = _base.get_config()\n"
    "  config.seed = 7\n"
    "  return config\n"
  )
  assert configs.load(str(file)).seed == 7


def test_missing_experiment_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"nowhere\.py"):
    configs.load(str(tmp_path / "nowhere.py"))


def test_file_without_get_config_is_refused(tmp_path):
  file = tmp_path / "empty.py"
  file.write_text("")
  with pytest.raises(ValueError, match=r"empty.py has no get_config\(\)"):
    configs.load(str(file))


def test_listing_the_experiments_imports_none_of_them():
  code = (
    "import sys; from mocha_jax import config;"
    "[config.summary(name) for name in config.names()];"
    "assert 'experiments' not in sys.modules or not any("
    "  'experiments.' + name in sys.modules for name in config.names())"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
