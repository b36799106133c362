"""Prompts become tokens as a file of the user says, or byte by byte."""

import pathlib
from collections.abc import Callable

BYTES = "bytes"
_END, _SPECIAL = 1, 3  # As ByT5 counts: padding, end, unknown, then bytes.

Tokenizer = Callable[[str], list[int]]


def open_tokenizer(path: str, vocabulary: int) -> Tokenizer:
  """Return what turns a prompt into ids below `vocabulary`, the end included.

  path: of a tokenizer.json, in the format of the library `tokenizers`; or
    "bytes", for UTF-8 as ByT5 counts it.

  Raises:
    ValueError: there is no such file, it is of another kind, it knows more
      tokens than the encoder, or it puts no end after a prompt.
  """
  if path == BYTES:
    _check(_SPECIAL + 256, vocabulary, path)
    return lambda text: [*(_SPECIAL + b for b in text.encode()), _END]
  if not pathlib.Path(path).is_file():
    raise ValueError(
      f"tokenizer = {path!r} is no file: expected the path of a"
      f' tokenizer.json, or "{BYTES}"'
    )
  import tokenizers

  try:
    found = tokenizers.Tokenizer.from_file(path)
  except Exception as error:  # The library raises nothing narrower.
    raise ValueError(
      f"tokenizer {path} is no tokenizer.json: {error}; the library tokenizers"
      " reads no sentencepiece model, so take the tokenizer.json beside it"
    ) from error
  _check(found.get_vocab_size(), vocabulary, path)
  # What a file says of padding and cutting is not for us.
  found.no_padding()
  found.no_truncation()
  encode = lambda text: found.encode(text).ids
  last = encode("")[-1:]
  if not last or encode("a")[-1:] != last:  # What all share.
    raise ValueError(
      f"tokenizer {path} puts no end after a prompt: take the tokenizer.json"
      " of the encoder's own model, whose post_processor adds one"
    )
  return encode


def _check(known: int, vocabulary: int, path: str) -> None:
  if known > vocabulary:
    raise ValueError(
      f"tokenizer {path} knows {known} tokens, but the encoder's sizes say"
      f" vocabulary={vocabulary}"
    )
