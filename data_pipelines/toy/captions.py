"""What a caption says of a scene: everything that was chosen, nothing else."""

from data_pipelines.toy.face import Look
from data_pipelines.toy.scene import Scene, Take
from mocha_jax import prompts

_SHOTS = {
  "close_up": "A close-up",
  "medium_close_up": "A medium close-up",
  "medium": "A medium shot",
  "two_shot": "A shot",
}
_PLACES = {
  "meadow": "in a sunny meadow",
  "beach": "at the beach",
  "room": "in a cosy room",
  "night": "in the city at night",
  "wall": "in front of a plain wall",
}
_FEELINGS = {
  "neutral": "calm",
  "happy": "happy",
  "sad": "sad",
  "angry": "angry",
  "surprised": "surprised",
}
_ACTIONS = {
  "rest": "keeps both arms down",
  "wave": "waves a hand",
  "raise": "raises a hand high",
  "point": "points up",
  "cup": "holds a cup",
  "nod": "nods",
  "shake": "shakes the head",
  "dance": "dances",
  "salute": "salutes",
}
_PRONOUNS = {"woman": "She", "man": "He"}
_CAMERAS = {
  "still": "The camera is still.",
  "zoom_in": "The camera slowly zooms in.",
  "zoom_out": "The camera slowly zooms out.",
  "pan_left": "The camera slowly pans left.",
  "pan_right": "The camera slowly pans right.",
}


def caption(scene: Scene) -> str:
  """Write the structured prompt, with tags or without, as the scene says."""
  seen: set[int] = set()
  clips = []
  for take in scene.takes:
    clips.append(_clip(scene, take, seen))
    seen |= {person for person, _ in take.cast}
  characters = {
    _tag(person): describe(look)
    for person, look in enumerate(scene.people)
    if scene.tags
  }
  return prompts.format(prompts.StructuredPrompt(tuple(clips), characters))


def describe(look: Look) -> str:
  """Describe what stays the same about a character."""
  return (
    f"a {look.gender} with {look.skin} skin, {look.style} {look.hair} hair, "
    f"{look.eyes} eyes and a {look.shirt} shirt"
  )


def _clip(scene: Scene, take: Take, seen: set[int]) -> str:
  """Tell one take; of who was seen before, not everything is said again."""
  who = " and ".join(
    _introduction(scene, person, seen) + _side(side)
    for person, side in take.cast
  )
  place = "" if seen else f" {_PLACES[scene.backdrop]}"
  sentences = [f"{_SHOTS[take.shot]} of {who}{place}."]
  for person, _ in take.cast:
    look = scene.people[person]
    speaking = "talks" if person == take.speaker else "listens"
    if take.speaker < 0:
      speaking = "stays silent"
    sentence = f"{_subject(scene, take, person)} looks"
    sentence += f" {_FEELINGS[look.emotion]}"
    if person in seen:
      sentence += f" and {speaking}."
    else:
      sentence += f", {speaking} and {_ACTIONS[look.action]}."
    sentences.append(sentence)
  if not seen:
    sentences.append(_CAMERAS[scene.camera])
  return " ".join(sentences)


def _tag(person: int) -> str:
  return f"Person{person + 1}"


def _side(side: str) -> str:
  return "" if side == "centre" else f" on the {side}"


def _introduction(scene: Scene, person: int, seen: set[int]) -> str:
  if scene.tags:
    return _tag(person)
  look = scene.people[person]
  if person in seen:
    return f"the {look.gender} in the {look.shirt} shirt"
  return describe(look)


def _subject(scene: Scene, take: Take, person: int) -> str:
  if scene.tags:
    return _tag(person)
  look = scene.people[person]
  if len(take.cast) == 1:
    return _PRONOUNS[look.gender]
  return f"The {look.gender} in the {look.shirt} shirt"
