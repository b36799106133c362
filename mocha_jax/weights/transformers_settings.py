"""What an encoder computes by and no shape tells, in transformers' words.

A config.json of theirs lies beside the weights. Two encoders can differ there
alone, such as in how many heads share a width.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mocha_jax.weights import settings

_FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class Setting:
  """One key of transformers', and what we compute by.

  key: of our config, that says `ours`; "" if nothing else is provided for.
  words: their value for each that ours can be; None if they are the same, and
    any will do.
  """

  theirs: str
  ours: Any
  key: str = ""
  words: Mapping[str, str] | None = None

  def misfit(
    self, given: Mapping[str, Any], left_out: Mapping[str, Any]
  ) -> str | None:
    """Say what is wrong with a config.json; None if nothing is, or can be told.

    left_out: what it means by keys that are not `given`.
    """
    if self.theirs in given:
      found, verb = given[self.theirs], "is"
    elif self.theirs in left_out:
      found, verb = left_out[self.theirs], "is left out, so"
    else:
      return None
    found = tuple(found) if isinstance(found, list) else found
    words = self.words or {self.ours: self.ours}
    if found == words[self.ours]:
      return None
    said = f"{self.theirs} {verb} {json.dumps(found)}"
    known = [ours for ours, theirs in words.items() if theirs == found]
    if self.key and not self.words:
      known = [found]
    if known:
      right, wrong = json.dumps(known[0]), json.dumps(self.ours)
      return f"{said}: set {self.key} to {right}, not {wrong}"
    right = " or ".join(map(json.dumps, words.values()))
    return f"{said}, but only {right} is provided for"


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a kind of network computes by.

  types: what `model_type` is in a config.json of this kind, or in its section
    `text_config`.
  wholes: what it is where `text_config` is of this kind, whatever that says.
  left_out: what `text_config` means by keys that it lacks, where it may lack
    some: transformers' defaults.
  """

  types: tuple[str, ...]
  rows: tuple[Setting, ...]
  wholes: tuple[str, ...] = ()
  left_out: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def check(self, weights: pathlib.Path) -> None:
    """Compare with the config.json beside the weights, a file or a folder.

    Keys that it lacks are taken on trust, and so are weights without one, or
    with one of another kind.

    Raises:
      ValueError: one cannot be read; or keys differ, which are all listed.
    """
    path = (weights if weights.is_dir() else weights.parent) / _FILE
    if not path.is_file():
      return
    given, left_out = self._of_kind(settings.read(path))
    wrong = [row.misfit(given, left_out) for row in self.rows]
    if any(wrong):
      raise ValueError(f"{path}: {'; '.join(filter(None, wrong))}")

  def _of_kind(
    self, given: Mapping[str, Any]
  ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return what is said of a network of this kind, and what is left out."""
    kind = given.get("model_type")
    if kind in self.types:
      return given, {}
    # The older name, where it is there, is what transformers goes by.
    part = given.get("text_config_dict") or given.get("text_config")
    part = part if isinstance(part, dict) else {}
    if kind in self.wholes or part.get("model_type") in self.types:
      return part, self.left_out
    return {}, {}
