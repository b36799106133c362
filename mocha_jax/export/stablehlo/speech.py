"""The speech encoder as a program: from samples to a vector per video frame.

Sound is mono at 16 kHz and as long as the clip: what is shorter is filled with
zeros, what has another rate is resampled outside.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mocha_jax.encoders import make_speech_encoder, sound
from mocha_jax.encoders.log_mel import LogMel
from mocha_jax.encoders.wav2vec2 import Wav2Vec2Speech, normed
from mocha_jax.export.stablehlo.program import (
  Arrays,
  Program,
  array,
  frozen_parameters,
)
from mocha_jax.network import nested
from mocha_jax.weights import files

_PREFIX = "speech_encoder."


def described(given: Mapping[str, Any]) -> dict[str, Any]:
  """Return what sound must be."""
  return {"sample_rate": sound.RATE, "samples": _samples(given)}


def _samples(given: Mapping[str, Any]) -> int:
  clip = given["clip"]
  return round(clip["frames"] / clip["fps"] * sound.RATE)


def programs(given: Mapping[str, Any], b: Any) -> dict[str, Program]:
  """Return `encode_speech`.

  Raises:
    NotImplementedError: the encoder has no program.
    ValueError: it has no weights, or they are of another network.
  """
  encoder, clip = make_speech_encoder(given["speech_encoder"]), given["clip"]
  samples = array("float32", b, _samples(given))
  if isinstance(encoder, Wav2Vec2Speech):
    program = _wav2vec2(encoder, clip["frames"], samples)
  elif isinstance(encoder, LogMel):
    program = _log_mel(encoder, clip, samples)
  else:
    raise NotImplementedError(
      f"the speech encoder {type(encoder).__name__} is not exported to"
      " StableHLO"
    )
  return {"encode_speech": program}


def _log_mel(encoder: LogMel, clip: Mapping[str, Any], samples: Any) -> Program:
  name = _PREFIX + "filters"

  def encoded(parameters: Arrays, inputs: Arrays) -> Arrays:
    # TPUs would round energies to bfloat16.
    with jax.default_matmul_precision("highest"):
      features = encoder.features(
        inputs["sound"],
        parameters[name],
        fps=clip["fps"],
        frames=clip["frames"],
        xp=jnp,
      )
    return {"speech": features}

  parameters = {name: files.in_memory(encoder.filters)}
  return Program(encoded, parameters, {"sound": samples})


def _wav2vec2(encoder: Wav2Vec2Speech, frames: int, samples: Any) -> Program:
  """Take beside the sound how many samples of it are there, "heard".

  Silence that follows is no part of its mean and variance.
  """

  def encoded(parameters: Arrays, inputs: Arrays) -> Arrays:
    params = nested(parameters, _PREFIX)
    heard = normed(inputs["sound"], inputs["heard"])
    features = encoder.features(params, heard, frames)
    return {"speech": features.astype(np.float32)}

  inputs = {"sound": samples, "heard": array("int32", *samples.shape[:1])}
  return Program(encoded, frozen_parameters(encoder, _PREFIX), inputs)
