"""Text encoders as programs, and how their tokens are made outside."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mocha_jax.encoders import TextEncoder, make_text_encoders
from mocha_jax.encoders.frozen import FrozenText
from mocha_jax.encoders.small_text import SmallText
from mocha_jax.encoders.tokenizers import BYTES
from mocha_jax.export.stablehlo.program import (
  Arrays,
  Program,
  array,
  frozen_parameters,
)
from mocha_jax.network import nested


def programs(given: Mapping[str, Any], b: Any) -> dict[str, Program]:
  """Return `encode_text.NAME` of those that have weights of their own.

  Raises:
    ValueError: one has none, or they are of another network.
  """
  return {
    f"encode_text.{name}": _program(name, encoder, b)
    for name, encoder in make_text_encoders(given["text_encoder"]).items()
    if isinstance(encoder, FrozenText)
  }


def _program(name: str, encoder: FrozenText, b: Any) -> Program:
  prefix, length = f"text_encoder.{name}.", encoder.length
  ids, mask = f"ids.{name}", f"text_mask.{name}"

  def encoded(parameters: Arrays, inputs: Arrays) -> Arrays:
    params = nested(parameters, prefix)
    features = encoder.features(params, inputs[ids], inputs[mask])
    return {f"text.{name}": features.astype(jnp.float32)}

  inputs = {ids: array("int32", b, length), mask: array("bool", b, length)}
  return Program(encoded, frozen_parameters(encoder, prefix), inputs)


def described(
  given: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, dict[str, Any]]:
  """Return what makes tokens of a prompt, by encoder, and copy its file.

  Raises:
    NotImplementedError: it is unknown how.
  """
  encoders = make_text_encoders(given["text_encoder"])
  return {name: _tokens(name, x, folder) for name, x in encoders.items()}


def _tokens(
  name: str, encoder: TextEncoder, folder: pathlib.Path
) -> dict[str, Any]:
  if isinstance(encoder, SmallText):  # See its module for the hash.
    config = dataclasses.asdict(encoder.config)
    return {"tokenizer": config.pop("name")} | config
  if not isinstance(encoder, FrozenText):
    raise NotImplementedError(
      f"the text encoder {type(encoder).__name__} is not exported to StableHLO"
    )
  config = encoder.config
  tokenizer = config.tokenizer
  if tokenizer != BYTES:
    tokenizer = f"tokenizer.{name}.json"
    shutil.copyfile(config.tokenizer, folder / tokenizer)
  return {"tokenizer": tokenizer, "length": config.length, "cut": config.cut}
