"""Text as token ids for an encoder that the model trains itself.

No files: a word's id is a hash of it, a byte's id is its value. Only the ids
are made here; their embeddings are parameters of the model.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

PADDING, BEGIN = 0, 1
_SPECIAL = 2
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class SmallTextConfig:
  """Section `text_encoder`: what a token is, how many ids, how many tokens."""

  name: Literal["small_text"]
  unit: Literal["words", "bytes"]
  vocabulary: int
  length: int

  def __post_init__(self):
    if self.length < 1:
      raise ValueError(f"length={self.length} must be at least 1")
    least = _SPECIAL + (256 if self.unit == "bytes" else 1)
    if self.vocabulary < least:
      raise ValueError(
        f"vocabulary={self.vocabulary} must be at least {least} for"
        f" unit={self.unit!r}"
      )


class SmallText:
  """Turns a prompt into ids: a begin token, the prompt, then padding."""

  width = 0  # Ids, no features.

  def __init__(self, config: SmallTextConfig):
    self.config = config

  @property
  def length(self) -> int:
    """Tokens that every prompt is padded to, L."""
    return self.config.length

  def tokens(
    self, prompt: str
  ) -> tuple[Int32[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
    """Return ids and a mask that is True on tokens.

    The begin token is always there, so that no mask is empty. Raises
    ValueError if the prompt has more tokens than `length`.
    """
    tokens = [BEGIN, *self._units(prompt)]
    if len(tokens) > self.length:
      raise ValueError(
        f"a prompt has {len(tokens)} tokens, begin included, and the limit is"
        f" {self.length}, text_encoder.length: {prompt[:60]!r}…"
      )
    ids = np.full(self.length, PADDING, np.int32)
    ids[: len(tokens)] = tokens
    return ids, np.arange(self.length) < len(tokens)

  __call__ = tokens  # More is not made of a prompt here.

  def many(
    self, prompts: Sequence[str]
  ) -> tuple[Int32[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Return ids and masks of several prompts."""
    ids, masks = zip(*map(self.tokens, prompts), strict=True)
    return np.stack(ids), np.stack(masks)

  def _units(self, prompt: str) -> list[int]:
    if self.config.unit == "bytes":
      return [_SPECIAL + byte for byte in prompt.encode()]
    buckets = self.config.vocabulary - _SPECIAL
    return [
      _SPECIAL + _hash(word) % buckets
      for word in _WORDS.findall(prompt.lower())
    ]


def _hash(word: str) -> int:
  """Hash a word, the same on every machine and in every process."""
  digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little")
