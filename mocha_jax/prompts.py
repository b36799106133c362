"""The structured prompt: which clips, which characters, and who is who.

  Two video clips.

  Characters:
  - Person1: a woman with long red hair
  - Person2: a man in a green coat

  First clip: Person1 speaks to the camera.

  Second clip: Person2 listens to Person1.

`format` writes this; `parse` also takes what people write instead, and cleans
it (`clean`) as the text was that Wan and others were trained on.
"""

import dataclasses
import html
import itertools
import re

_ORDINALS = (
  "First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth",
  "Ninth", "Tenth",
)  # fmt: skip
_NUMBERS = (
  "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten",
)  # fmt: skip
_HEADER = re.compile(
  rf"^\s*({'|'.join(_NUMBERS)}|\d+) video clips?\s*[.:]?\s*(?=\n|$|[A-Z(-])",
  re.IGNORECASE,
)
_CLIP = re.compile(
  rf"(?:^|(?<=[\s.!?;]))({'|'.join(_ORDINALS)}) (?:video )?clip\s*:",
  re.IGNORECASE,
)
_CHARACTERS = re.compile(r"(?:^|(?<=[\s.:]))Characters?\s*:", re.IGNORECASE)
_TAG = re.compile(r"\bPerson ?(\d+)")
# How a description says whose it is: (Person1), or Person1 at its very start.
_OPENING = re.compile(
  r"\(\s*(?P<in>Person\d+)\s*\)|(?:^|(?<=[\n.;!?]))[\s*-]*(?P<at>Person\d+)\b"
)
_SENTENCE_END = re.compile(r"[.;!?](?!\d)|\n")
_TAIL = re.compile(r"(\s|[,;-]|\band)+$")
_PHRASE_END = re.compile(r",|\band\b")
# Quotes made straight, full-width forms narrow, as ftfy.fix_text does.
_PLAIN = {
  **dict.fromkeys((0x02BC, *range(0x2018, 0x201C)), "'"),
  **dict.fromkeys(range(0x201C, 0x2020), '"'),
  **{wide: wide - 0xFF01 + ord("!") for wide in range(0xFF01, 0xFF5F)},
  0x3000: " ",
}


@dataclasses.dataclass(frozen=True)
class StructuredPrompt:
  """One text per clip, and what each tag (`Person1`, ...) looks like."""

  clips: tuple[str, ...]
  characters: dict[str, str]


def clean(text: str) -> str:
  """Undo HTML's escapes, once more where one hides another, and wide forms.

  `It&#39;s “ＯＫ” &amp;amp; so` becomes `It's "OK" & so`; that stays as it is.
  """
  before = None
  while text != before:
    before, text = text, html.unescape(text).translate(_PLAIN)
  return text


def parse(text: str) -> StructuredPrompt:
  """Read a prompt, structured or plain; spaces and line ends do not matter.

  Raises:
    ValueError: The prompt is empty, announces other clips than it has, or
      names a person whom it never describes.
  """
  body = _TAG.sub(r"Person\1", clean(text).strip())
  announced = None
  if header := _HEADER.match(body):
    announced, body = _number(header[1]), body[header.end() :]
  marks = list(_CLIP.finditer(body))
  before = body[: marks[0].start()] if marks else body
  characters = {}
  if section := _CHARACTERS.search(before):
    characters = _characters(before[section.end() :])
    before = before[: section.start()]
  if marks:
    clips = _clips(body, marks)
    if before.strip():
      raise ValueError(f"prompt: {_short(before)!r} stands before every clip")
  else:
    clips = (_line(before),)
  if not all(clips):
    raise ValueError(f"prompt: a clip without a text in {_short(text)!r}")
  if announced not in (None, len(clips)):
    raise ValueError(
      f"prompt: announces {announced} clips but describes {len(clips)}; each "
      "starts with 'First clip:', 'Second clip:', ..."
    )
  _check_tags(clips, characters)
  return StructuredPrompt(clips, characters)


def format(prompt: StructuredPrompt) -> str:
  """Write a prompt such that `parse` gives it back.

  Raises:
    ValueError: It cannot: more than ten clips, an unknown tag, or a text that
      looks like a heading of the template.
  """
  clips = prompt.clips
  if len(clips) == 1 and not prompt.characters:
    text = clips[0]
  elif 1 <= len(clips) <= len(_ORDINALS):
    plural = "s" if len(clips) > 1 else ""
    parts = [f"{_NUMBERS[len(clips) - 1]} video clip{plural}."]
    if prompt.characters:
      lines = [f"- {tag}: {text}" for tag, text in prompt.characters.items()]
      parts.append("\n".join(["Characters:", *lines]))
    for ordinal, clip in zip(_ORDINALS, clips, strict=False):
      parts.append(f"{ordinal} clip: {clip}")
    text = "\n\n".join(parts)
  else:
    raise ValueError(f"prompt: {len(clips)} clips; 1 to 10 can be written")
  if (back := parse(text)) != prompt:
    raise ValueError(f"prompt: {prompt} would be read as {back}")
  return text


def unquote(cell: str) -> str:
  r"""Take a prompt out of a table's cell: no outer quotes, \n a line end."""
  cell = cell.strip()
  if len(cell) > 1 and cell[0] == cell[-1] == '"':
    cell = cell[1:-1]
  return cell.replace("\\n", "\n").strip()


def _number(word: str) -> int:
  return int(word) if word.isdigit() else _index(_NUMBERS, word) + 1


def _index(words: tuple[str, ...], word: str) -> int:
  return words.index(word.capitalize())


def _line(text: str) -> str:
  return " ".join(text.split())


def _short(text: str) -> str:
  text = _line(text)
  return text if len(text) <= 60 else f"{text[:57]}..."


def _clips(body: str, marks: list[re.Match]) -> tuple[str, ...]:
  for n, mark in enumerate(marks):
    if _index(_ORDINALS, mark[1]) != n:
      raise ValueError(
        f"prompt: {mark[0]!r} stands where '{_ORDINALS[n]} clip:' should"
      )
  ends = [mark.start() for mark in marks[1:]] + [len(body)]
  return tuple(
    _line(body[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)
  )


def _characters(section: str) -> dict[str, str]:
  """Split the descriptions: each starts where the sentence of its tag does."""
  tags = list(_OPENING.finditer(section))
  if not tags:
    if section.strip():
      raise ValueError(
        f"prompt: no (PersonN) tag among its characters: {_short(section)!r}"
      )
    return {}
  tag_first = not section[: tags[0].start()].strip(" \n*-")
  starts = [0]
  for last, tag in itertools.pairwise(tags):
    between = section[last.end() : tag.start()]
    starts.append(
      tag.start()
      if tag_first or tag["at"]
      else last.end() + _description_start(between)
    )
  characters = {}
  ends = [*starts[1:], len(section)]
  for tag, start, end in zip(tags, starts, ends, strict=True):
    name = tag["in"] or tag["at"]
    text = _description(section[start : tag.start()], section[tag.end() : end])
    if name in characters:
      raise ValueError(f"prompt: describes {name} twice")
    if not text:
      raise ValueError(f"prompt: the description of {name} is empty")
    characters[name] = text
  return characters


def _description_start(between: str) -> int:
  """Return where, between two tags, the second one's description begins."""
  for end in (_SENTENCE_END, _PHRASE_END):
    if found := list(end.finditer(between)):
      return found[-1].end()
  return 0


def _description(before: str, after: str) -> str:
  before = before.strip(" \n*-")
  after = _line(after)
  if not before:
    after = after.lstrip(":,- ")
  return _TAIL.sub("", _line(f"{before} {after}").replace(" ,", ","))


def _check_tags(clips: tuple[str, ...], characters: dict[str, str]) -> None:
  introduced = {
    f"Person{n}" for n in re.findall(r"\(Person(\d+)\)", str(clips))
  }
  for clip in clips:
    for number in _TAG.findall(clip):
      tag = f"Person{number}"
      if tag not in characters and tag not in introduced:
        raise ValueError(
          f"prompt: a clip names {tag}, whom it never describes; described: "
          f"{', '.join(characters) or 'nobody'}"
        )
