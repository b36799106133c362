import csv
import pathlib
import re

import pytest

from mocha_jax import prompts
from mocha_jax.prompts import StructuredPrompt
from tests import media_files

TWO = StructuredPrompt(
  ("Person1 hums to the camera.", "Person2 looks at Person1 and laughs."),
  {
    "Person1": "a baker with red braids, in a white apron.",
    "Person2": "a sailor in a striped shirt.",
  },
)
CLIPS = """
First clip: Person1 hums to the camera.

Second clip: Person2 looks at Person1 and laughs.
"""
CHARACTERS = (
  # As `format` writes it.
  "Characters:\n"
  "- Person1: a baker with red braids, in a white apron.\n"
  "- Person2: a sailor in a striped shirt.\n",
  # Tags in brackets behind the noun; two sentences in a row, with no space.
  "Characters: a baker(Person1) with red braids, in a white apron."
  "a sailor (Person2) in a striped shirt.\n",
  # Tags in front, in brackets or not, one line or several.
  "Characters:\n(Person1)a baker with red braids, in a white apron.\n\n"
  "(Person2) a sailor in a striped shirt.\n",
  "Characters: (Person1)a baker with red braids, in a white apron. "
  "(Person2)a sailor in a striped shirt.",
  "Characters:\n\n Person1: a baker with red braids,\n in a white apron.\n\n"
  " * Person 2 - a sailor in a striped shirt.\n",
  "characters:a baker ( Person1 ) with red braids, in a white apron.\n"
  "a sailor (Person2)  in a striped shirt.\n\n",
)


@pytest.mark.parametrize("characters", CHARACTERS)
@pytest.mark.parametrize(
  "head", ["Two video clips.\n\n", "Two video clips:\n", "2 video clips ", ""]
)
def test_takes_every_way_to_write_the_same(head, characters):
  assert prompts.parse(head + characters + CLIPS) == TWO


@pytest.mark.parametrize("characters", CHARACTERS)
def test_line_ends_do_not_matter(characters):
  text = "Two video clips.\n\n" + characters + CLIPS
  windows = text.replace("\n", "\r\n")
  assert prompts.parse(windows) == TWO


def test_one_line_is_enough_where_sentences_end():
  text = prompts.format(TWO).replace("\n\n", " ")
  assert prompts.parse(text) == TWO


@pytest.mark.parametrize(
  ("text", "wanted"),
  [
    ("It&#39;s a man &amp; a woman.", "It's a man & a woman."),
    ("A man &amp;amp; a &amp;quot;cat&amp;quot;.", 'A man & a "cat".'),
    ("&amp;amp;amp;lt;", "<"),
    ("He says “hi” — it’s ‘fine’.", "He says \"hi\" — it's 'fine'."),
    ("ＡＢＣ　ｗａｖｅｓ！", "ABC waves!"),
    ("＆amp;ldquo;", '"'),
    ("Zwölf Köche; 1 < 2 & 3, 映画", "Zwölf Köche; 1 < 2 & 3, 映画"),
  ],
)
def test_is_cleaned_as_training_text_was(text, wanted):
  prompt = prompts.parse(text)
  assert prompt == StructuredPrompt((wanted,), {})
  assert prompts.format(prompt) == wanted


def test_a_template_in_wide_letters_is_one():
  text = "Characters：　a cat （Person1） in red． First clip： Person1 purrs."
  assert prompts.parse(text) == StructuredPrompt(
    ("Person1 purrs.",), {"Person1": "a cat in red."}
  )


def test_takes_a_prompt_without_any_tag():
  plain = "A close-up of a man (in a red hat).\n\nHe sings: la, la."
  wanted = StructuredPrompt(
    ("A close-up of a man (in a red hat). He sings: la, la.",), {}
  )
  assert prompts.parse(plain) == wanted


def test_takes_clips_without_characters():
  text = "Two video clips. First clip: A cat. Second clip:A dog."
  assert prompts.parse(text) == StructuredPrompt(("A cat.", "A dog."), {})


def test_takes_three_characters_and_three_clips():
  text = (
    "Three video clips:\n\nCharacters: A cook (Person1) in white, 1.9 m tall."
    " A guest(Person2) with a monocle. A dog (Person3), brown.\n\n"
    "First clip: Person1 speaks to Person2.\n\n Second clip:Person2 answers. "
    "Person3 is out of focus.\n\nThird video clip: Person3 barks."
  )
  prompt = prompts.parse(text)
  assert prompt.characters == {
    "Person1": "A cook in white, 1.9 m tall.",
    "Person2": "A guest with a monocle.",
    "Person3": "A dog, brown.",
  }
  assert prompt.clips[1] == "Person2 answers. Person3 is out of focus."


def test_splits_two_characters_of_one_sentence():
  text = (
    "Characters: A cook (Person1) in white and a guest (Person2) in grey.\n"
    "First clip: Person1 and Person2 sing."
  )
  assert prompts.parse(text).characters == {
    "Person1": "A cook in white",
    "Person2": "a guest in grey.",
  }


def test_a_tag_within_anothers_description_describes_nobody():
  text = (
    "Characters:\n- Person1: the sister of Person2, in blue.\n"
    "First clip: Person1 waits for Person2."
  )
  with pytest.raises(
    ValueError, match="names Person2, whom it never describes"
  ):
    prompts.parse(text)


def test_a_clip_may_introduce_a_person_itself():
  text = "A cook (Person1) in white sings. Person1 then bows."
  assert prompts.parse(text) == StructuredPrompt((text,), {})


@pytest.mark.parametrize(
  ("text", "error"),
  [
    ("", "a clip without a text"),
    (" \n", "a clip without a text"),
    ("Person1 sings.", "names Person1, whom it never describes; .* nobody"),
    (
      "Characters:\n- Person1: a cook.\nFirst clip: Person3 sings.",
      "names Person3, whom it never describes; described: Person1",
    ),
    (
      "Two video clips. First clip: A cat.",
      "announces 2 clips but describes 1",
    ),
    ("First clip: A cat. Third clip: A dog.", "where 'Second clip:' should"),
    ("First clip: A cat. Second clip:", "a clip without a text"),
    ("A park. First clip: A cat.", "'A park.' stands before every clip"),
    ("Characters: a cook. First clip: A cat.", r"no \(PersonN\) tag"),
    (
      "Characters:\n- Person1: a cook.\n- Person1: a cat.\nFirst clip: A cat.",
      "describes Person1 twice",
    ),
    (
      "Characters:\n- Person1: a cook.\n- Person2:\nFirst clip: A cat.",
      "the description of Person2 is empty",
    ),
  ],
)
def test_says_what_is_wrong(text, error):
  with pytest.raises(ValueError, match=f"prompt: .*{error}"):
    prompts.parse(text)


@pytest.mark.parametrize(
  "prompt",
  [
    TWO,
    StructuredPrompt(("A cat sleeps.",), {}),
    StructuredPrompt(("A cat.", "A dog.", "A cat."), {}),
    StructuredPrompt(("Person1 sings.",), {"Person1": "a cook; she smiles"}),
  ],
)
def test_what_is_written_reads_the_same(prompt):
  text = prompts.format(prompt)
  assert prompts.parse(text) == prompt
  assert prompts.format(prompts.parse(text)) == text


@pytest.mark.parametrize(
  ("prompt", "error"),
  [
    (StructuredPrompt(("a", "b. First clip: c"), {}), "'First clip:' stands"),
    (StructuredPrompt(("two  spaces",), {}), "would be read as"),
    (StructuredPrompt((), {}), "0 clips; 1 to 10"),
    (StructuredPrompt(("Person2 sings.",), {"Person1": "a cat"}), "Person2"),
  ],
)
def test_refuses_to_write_what_would_read_otherwise(prompt, error):
  with pytest.raises(ValueError, match=error):
    prompts.format(prompt)


def test_takes_a_prompt_out_of_a_tables_cell():
  cell = '"Two video clips.\\n\\nFirst clip: A cat.\\n\\nSecond clip: A dog. "'
  assert prompts.unquote(cell).splitlines()[2] == "First clip: A cat."
  assert prompts.unquote(cell).endswith("A dog.")
  assert prompts.unquote('She says "no".') == 'She says "no".'
  assert prompts.unquote("plain") == "plain"


@media_files.needs_real_clips
def test_every_real_prompt_is_read_and_keeps_its_words():
  path = pathlib.Path(media_files.REAL) / "benchmark/benchmark.csv"
  with path.open(encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 220
  for row in rows:
    text = prompts.unquote(row["prompt"])
    prompt = prompts.parse(text)
    assert prompts.parse(prompts.format(prompt)) == prompt
    dialogue = "wo video clips" in text
    assert len(prompt.clips) == 1 + dialogue
    assert list(prompt.characters) == ["Person1", "Person2"] * dialogue
    kept = " ".join([*prompt.characters.values(), *prompt.clips])
    headings = r"Two video clips[.:]|Characters:|(First|Second) clip:"
    text = re.sub(rf"{headings}|\(Person[12]\)|\s", "", prompts.clean(text))
    assert "".join(kept.split()) == text
