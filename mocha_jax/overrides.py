"""How `--config.section.key=value` on the command line changes a config."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mocha_jax import config as configs

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """Separate the overrides from the other arguments, each in their order."""
  overrides = [a for a in arguments if _OVERRIDE.match(a)]
  return overrides, [a for a in arguments if not _OVERRIDE.match(a)]


def apply(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """Change the values of `config` that the overrides name; types are kept.

  A value can also lie in a tuple: `--config.data.stages[0].steps=100`. Raises
  ValueError for an unknown key and for a value that its type cannot hold.
  """
  for override in overrides:
    match = _OVERRIDE.match(override)
    assert match is not None
    _require_key(config, match[2], override)
  argv = ["mocha", *overrides]
  values = flags.FlagValues()
  config_flags.DEFINE_config_dict(
    "config", config, flag_values=values, sys_argv=argv
  )
  try:
    values(argv)
  except flags.Error as error:
    raise ValueError(str(error)) from error
  return config


def _require_key(config: ConfigDict, key: str, override: str) -> None:
  """Refuse a key such as data.stages[0].steps that the config lacks."""
  here: Any = config
  for index, part in re.findall(r"\[(\d+)\]|([^.\[\]]+)", key):
    if index and isinstance(here, tuple):
      if int(index) >= len(here):
        raise ValueError(f"{override}: [{index}] is beyond {len(here)} entries")
      here = here[int(index)]
    elif part and isinstance(here, (ConfigDict, Mapping)):
      if part not in here:
        raise ValueError(
          f'{override}: unknown key "{part}"'
          f"{configs.nearest(part, here.keys())}"
        )
      here = here[part]
    else:
      raise ValueError(f"{override}: {here!r} has no {index or part}")
