"""The networks: section `model` of a config names one of them."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from mocha_jax.models.backbone import BackboneConfig
from mocha_jax.models.movie_gen import ModelConfig, MovieGen
from mocha_jax.models.wan import Wan, WanConfig
from mocha_jax.sections import nearest, section

__all__ = ["BackboneConfig", "make_config", "make_model"]

_BACKBONES: Mapping[str, tuple[type[BackboneConfig], Any]] = {
  "movie_gen": (ModelConfig, MovieGen),
  "wan": (WanConfig, Wan),
}


def make_config(given: Mapping[str, Any]) -> BackboneConfig:
  """Turn section `model` into the config of the backbone that it names.

  A section without a name is from before there was a choice: "movie_gen".

  Raises:
    ValueError: there is no such backbone, or the section is wrong.
  """
  name = given.get("name", "movie_gen")
  if name not in _BACKBONES:
    raise ValueError(
      f"config.model.name = {name!r} is unknown{nearest(str(name), _BACKBONES)}"
    )
  return section(_BACKBONES[name][0], given, "model")


def make_model(config: BackboneConfig, *, rngs: nnx.Rngs) -> nnx.Module:
  """Build the backbone of a config; call it as `model(x_t, t, condition)`."""
  (made,) = (m for kind, m in _BACKBONES.values() if isinstance(config, kind))
  return made(config, rngs=rngs)
