"""Text as ids by a tokenizer.json, or byte by byte as ByT5 counts."""

import pathlib

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config

BYTES = "bytes"
END, SPECIAL = 1, 3


class FileTokenizer(ConfigMixin):
  """Turns a prompt into ids, zeros after them.

  tokenizer: a file in the folder, or "bytes"; length: of all prompts, in
  tokens; cut: whether a longer one is cut before its end, or refused.
  """

  config_name = "tokenizer_config.json"

  @register_to_config
  def __init__(self, tokenizer: str, length: int, cut: bool):
    super().__init__()
    self.file = None

  @classmethod
  def from_pretrained(cls, folder, **_) -> "FileTokenizer":
    """Open the tokenizer that a folder holds."""
    made = cls.from_config(cls.load_config(folder))
    if made.config.tokenizer != BYTES:
      from tokenizers import Tokenizer  # It comes with transformers.

      path = pathlib.Path(folder) / made.config.tokenizer
      made.file = Tokenizer.from_file(str(path))
      made.file.no_padding()
      made.file.no_truncation()
    return made

  def __call__(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and a mask that is True on tokens, both [L].

    Raises ValueError if the prompt has more tokens than `length`.
    """
    ids, length = self.encode(prompt), self.config.length
    if len(ids) > length and self.config.cut:
      ids = [*ids[: length - 1], ids[-1]]  # The end stays.
    if len(ids) > length:
      raise ValueError(
        f"a prompt has {len(ids)} tokens, the end included, and the limit is "
        f"{length}: {prompt[:60]!r}…"
      )
    padding = [0] * (length - len(ids))
    return torch.tensor(ids + padding), torch.arange(length) < len(ids)

  def encode(self, prompt: str) -> list[int]:
    """Return the ids of a prompt, the end included."""
    if self.file is None:
      return [*(SPECIAL + byte for byte in prompt.encode()), END]
    return self.file.encode(prompt).ids
