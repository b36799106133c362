"""Text as ids without a vocabulary file: a word's is its hash, a byte's it."""

import hashlib
import re

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config

PADDING, BEGIN = 0, 1
SPECIAL = 2
WORDS = re.compile(r"\w+|[^\w\s]")


class HashedTokenizer(ConfigMixin):
  """Turns a prompt into ids: a begin token, the prompt, then padding.

  unit: "words" or "bytes"; vocabulary: how many ids; length: tokens at most.
  """

  config_name = "tokenizer_config.json"

  @register_to_config
  def __init__(self, unit: str, vocabulary: int, length: int):
    super().__init__()

  @classmethod
  def from_pretrained(cls, folder, **_) -> "HashedTokenizer":
    """Read the tokenizer that a folder describes."""
    return cls.from_config(cls.load_config(folder))

  def __call__(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and a mask that is True on tokens, both [L].

    Raises ValueError if the prompt has more tokens than `length`.
    """
    ids, length = [BEGIN, *self.encode(prompt)], self.config.length
    if len(ids) > length:
      raise ValueError(
        f"a prompt has {len(ids)} tokens, begin included, and the limit is "
        f"{length}: {prompt[:60]!r}…"
      )
    padding = [PADDING] * (length - len(ids))
    return torch.tensor(ids + padding), torch.arange(length) < len(ids)

  def encode(self, prompt: str) -> list[int]:
    """Return the ids of a prompt, without begin and padding."""
    if self.config.unit == "bytes":
      return [SPECIAL + byte for byte in prompt.encode()]
    buckets = self.config.vocabulary - SPECIAL
    return [
      SPECIAL + number(word) % buckets for word in WORDS.findall(prompt.lower())
    ]


def number(word: str) -> int:
  """Hash a word, the same on every machine and in every process."""
  digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little")
