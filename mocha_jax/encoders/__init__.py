"""What turns speech and prompts into what a model is conditioned on."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int32

from mocha_jax.encoders.log_mel import LogMel, LogMelConfig
from mocha_jax.encoders.small_text import SmallText, SmallTextConfig
from mocha_jax.sections import nearest, section

_SPEECH = {"log_mel": (LogMelConfig, LogMel)}
_TEXT = {"small_text": (SmallTextConfig, SmallText)}


class SpeechEncoder(Protocol):
  """Turns a waveform into one vector per video frame."""

  @property
  def width(self) -> int:
    """Numbers per video frame, E."""
    ...

  def __call__(
    self,
    samples: Float[np.ndarray, "A"],
    *,
    sample_rate: int,
    fps: float,
    frames: int,
  ) -> Float[np.ndarray, "frames E"]:
    """Encode the sound of `frames` video frames, padded with silence."""
    ...


class TextEncoder(Protocol):
  """Turns a prompt into token ids or features, and a mask."""

  @property
  def width(self) -> int:
    """Width of a token's features; 0 if tokens are ids."""
    ...

  @property
  def length(self) -> int:
    """Tokens that every prompt is padded to, L."""
    ...

  def __call__(
    self, prompt: str
  ) -> tuple[
    Int32[np.ndarray, "L"] | Float[np.ndarray, "L E"], Bool[np.ndarray, "L"]
  ]:
    """Encode a prompt; ValueError if it is too long."""
    ...


def make_speech_encoder(config: Mapping[str, Any]) -> SpeechEncoder:
  """Make the encoder that section `speech_encoder` names."""
  return _make(_SPEECH, config, "speech_encoder")


def make_text_encoders(config: Mapping[str, Any]) -> dict[str, TextEncoder]:
  """Make the encoder that section `text_encoder` names, keyed by its name."""
  encoder = _make(_TEXT, config, "text_encoder")
  return {encoder.config.name: encoder}


def _make(known: Mapping[str, Any], config: Mapping[str, Any], where: str):
  if "name" not in config:
    raise ValueError(f"config.{where}.name is missing: one of {[*known]}")
  name = config["name"]
  if name not in known:
    raise ValueError(
      f"config.{where}.name = {name!r} is unknown{nearest(str(name), known)}"
    )
  config_class, encoder = known[name]
  return encoder(section(config_class, config, where))
