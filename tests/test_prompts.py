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


def said_of(text: str) -> dict[tuple[int, int], str]:
  """Return the words of each clip and person, without punctuation."""
  found = prompts.places(text)
  ends = [place.start for place in found[1:]] + [len(text)]
  words: dict[tuple[int, int], str] = {}
  for place, end in zip(found, ends, strict=True):
    where = place.clip, place.person
    said = re.findall(r"\w+", text[place.start : end])
    words[where] = " ".join([words.get(where, ""), *said]).strip()
  return words


def test_places_say_which_clip_and_whom_words_speak_of():
  said = said_of(prompts.format(TWO))
  assert said[0, 1] == "Person1 a baker with red braids in a white apron"
  assert said[1, 1] == "Person1 hums to the camera"
  assert said[2, 2] == "Person2 looks at"
  assert said[2, 1] == "Person1 and laughs"


def test_places_tell_people_without_tags_apart_and_follow_pronouns():
  said = said_of(
    "A man with a hat and a tall woman by the sea. She waves. It rains."
  )
  first, second = prompts.TAGS, prompts.TAGS + 1
  assert said[1, first] == "A man with a hat and"
  assert said[1, second] == "a tall woman by the sea She waves"
  assert said[1, 0] == "It rains"


def test_places_of_any_text_start_at_its_start_and_stay_within_the_limits():
  crowd = " ".join(f"A man sees Person{n}." for n in range(40))
  for text in ("", "no person", crowd, "Tenth clip: Person99 and a boy."):
    found = prompts.places(text)
    assert found[0].start == 0
    assert found == sorted(found, key=lambda place: place.start)
    assert all(place.clip < prompts.CLIPS for place in found)
    assert all(place.person < prompts.PEOPLE for place in found)


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
    text = re.sub(rf"{headings}|\(Person[12]\)|\s", "", text)
    assert "".join(kept.split()) == text
