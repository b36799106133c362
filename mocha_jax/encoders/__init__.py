"""What turns speech and prompts into what a model is conditioned on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int32

from mocha_jax.encoders.clip_text import ClipTextConfig, ClipTextEncoder
from mocha_jax.encoders.frozen import Frozen
from mocha_jax.encoders.log_mel import LogMel, LogMelConfig
from mocha_jax.encoders.small_text import SmallText, SmallTextConfig
from mocha_jax.encoders.t5 import T5Config, T5Text
from mocha_jax.encoders.wav2vec2 import Wav2Vec2Config, Wav2Vec2Speech
from mocha_jax.sections import nearest, section

_SPEECH = {
  "log_mel": (LogMelConfig, LogMel),
  "wav2vec2": (Wav2Vec2Config, Wav2Vec2Speech),
}
_TEXT = {
  "small_text": (SmallTextConfig, SmallText),
  "umt5": (T5Config, T5Text),
  "byt5": (T5Config, T5Text),
  "ul2": (T5Config, T5Text),
  "clip_text": (ClipTextConfig, ClipTextEncoder),
}


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

  def many(
    self,
    waveforms: Sequence[Float[np.ndarray, "A"]],
    *,
    sample_rate: int,
    fps: float,
    frames: int,
  ) -> Float[np.ndarray, "B frames E"]:
    """Encode several sounds, each as if it stood alone."""
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

  def tokens(
    self, prompt: str
  ) -> tuple[Int32[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
    """Return ids and the mask; ValueError if the prompt is too long."""
    ...

  def __call__(
    self, prompt: str
  ) -> tuple[
    Int32[np.ndarray, "L"] | Float[np.ndarray, "L E"], Bool[np.ndarray, "L"]
  ]:
    """Encode a prompt; ValueError if it is too long."""
    ...

  def many(
    self, prompts: Sequence[str]
  ) -> tuple[
    Int32[np.ndarray, "B L"] | Float[np.ndarray, "B L E"],
    Bool[np.ndarray, "B L"],
  ]:
    """Encode several prompts, each as if it stood alone."""
    ...


def make_speech_encoder(config: Mapping[str, Any]) -> SpeechEncoder:
  """Make the encoder that section `speech_encoder` names."""
  return _make(_SPEECH, config, "speech_encoder")


def make_text_encoders(config: Mapping[str, Any]) -> dict[str, TextEncoder]:
  """Make what section `text_encoder` describes.

  Either one encoder, keyed by its name; or several, each in a section of its
  own, keyed as these are.
  """
  if "name" in config or not all(map(_is_section, config.values())):
    encoder = _make(_TEXT, config, "text_encoder")
    return {encoder.config.name: encoder}
  if not config:
    raise ValueError("config.text_encoder is empty: it must name an encoder")
  return {
    key: _make(_TEXT, given, f"text_encoder.{key}")
    for key, given in config.items()
  }


def check_files(encoders: Iterable[SpeechEncoder | TextEncoder]) -> None:
  """Find out what is wrong with the files of those that have any.

  Raises:
    ValueError: one is missing, or is not what the config says.
  """
  for encoder in encoders:
    if isinstance(encoder, Frozen):
      encoder.check_files()


def release(encoders: Iterable[SpeechEncoder | TextEncoder]) -> None:
  """Free the weights of those that have any; the next use reads them again."""
  for encoder in encoders:
    if isinstance(encoder, Frozen):
      encoder.release()


def _is_section(value: Any) -> bool:
  return hasattr(value, "keys")


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
