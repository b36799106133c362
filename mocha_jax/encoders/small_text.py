"""Text as token ids for an encoder that the model trains itself.

No files: a word's id is a hash of it, a byte's id is its value. To it comes, a
vocabulary further for each, the place where the token stands: of which clip and
of whom it speaks (`prompts.places`). So a small encoder need not learn from
pictures alone what "Person2" in the second clip has to do with "a red shirt" in
a list before it. Only the ids are made here; their embeddings are parameters of
the model.
"""

import bisect
import dataclasses
import hashlib
import re
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

from mocha_jax import prompts

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

  def __call__(
    self, prompt: str
  ) -> tuple[Int32[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
    """Return ids and a mask that is True on tokens.

    An id is word + vocabulary (clip PEOPLE + person), or byte instead of word.

    The begin token is always there, so that no mask is empty. Raises
    ValueError if the prompt has more tokens than `length`.
    """
    tokens = [BEGIN, *self._tokens(prompt)]
    if len(tokens) > self.length:
      raise ValueError(
        f"a prompt has {len(tokens)} tokens, begin included, and the limit is"
        f" {self.length}: {prompt[:60]!r}…"
      )
    ids = np.full(self.length, PADDING, np.int32)
    ids[: len(tokens)] = tokens
    return ids, np.arange(self.length) < len(tokens)

  def _tokens(self, prompt: str) -> list[int]:
    found = prompts.places(prompt)
    starts = [place.start for place in found]

    def base(start: int) -> int:
      place = found[bisect.bisect_right(starts, start) - 1]
      number = place.clip * prompts.PEOPLE + place.person
      return number * self.config.vocabulary + _SPECIAL

    if self.config.unit == "bytes":
      return [
        base(start) + byte
        for start, character in enumerate(prompt)
        for byte in character.encode()
      ]
    buckets = self.config.vocabulary - _SPECIAL
    return [
      base(word.start()) + _hash(word[0].lower()) % buckets
      for word in _WORDS.finditer(prompt)
    ]


def _hash(word: str) -> int:
  """Hash a word, the same on every machine and in every process."""
  digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little")
