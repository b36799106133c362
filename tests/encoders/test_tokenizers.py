import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from mocha_jax.encoders.tokenizers import open_tokenizer


@pytest.fixture
def words(tmp_path):
  """A file that knows four words, and asks for padding and cutting."""
  known = {"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "hat": 4}
  made = tokenizers.Tokenizer(models.WordLevel(known, unk_token="<unk>"))
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  made.post_processor = processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  made.enable_padding(length=9)
  made.enable_truncation(3)
  path = tmp_path / "tokenizer.json"
  made.save(str(path))
  return str(path)


def test_bytes_are_counted_as_byt5_does():
  encode = open_tokenizer("bytes", 384)
  assert encode("Hé") == [72 + 3, 0xC3 + 3, 0xA9 + 3, 1]
  assert encode("") == [1]


def test_file_says_how_words_become_tokens_but_not_how_many(words):
  encode = open_tokenizer(words, 5)
  assert encode("red hat red what") == [3, 4, 3, 2, 1]
  assert encode("") == [1]


def test_tokens_beyond_the_vocabulary_are_refused(words):
  with pytest.raises(ValueError, match=r"knows 5 tokens, .* vocabulary=4"):
    open_tokenizer(words, 4)
  with pytest.raises(ValueError, match="bytes knows 259 tokens"):
    open_tokenizer("bytes", 258)


@pytest.mark.parametrize("given", [None, "<s> $A"])
def test_file_without_an_end_is_refused(words, given):
  file = tokenizers.Tokenizer.from_file(words)
  file.post_processor = given and processors.TemplateProcessing(
    single=given, special_tokens=[("<s>", 0)]
  )
  file.save(words)
  with pytest.raises(ValueError, match=r"tokenizer.json puts no end after a"):
    open_tokenizer(words, 5)


def test_missing_or_wrong_file_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"tokenizer = '' is no file: .*bytes"):
    open_tokenizer("", 9)
  (tmp_path / "spiece.model").write_bytes(b"\x0a\x0e\x0a\x05<pad>")
  with pytest.raises(ValueError, match=r"spiece.model is no tokenizer.json"):
    open_tokenizer(str(tmp_path / "spiece.model"), 9)
