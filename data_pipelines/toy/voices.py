"""Who speaks: espeak-ng's voices, and which of their recordings are held out.

A recording is an accent with a variant, a pitch and a rate. Training hears
every accent and every variant, but a third of their pairings it never does.
Variants with breath (f2, f3, f5) are left out: espeak-ng never says the same
thing twice the same way with them.
"""

import random

from data_pipelines.toy.speech import Voice

_ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029")
_VARIANTS = {
  "woman": ("f1", "f4", "linda", "belinda", "steph", "aunty"),
  "man": ("m1", "m2", "m3", "m4", "m7", "max"),
}
_PITCHES = (35, 45, 55, 65)
_RATES = (100, 115, 130, 145)


def english(rng: random.Random, gender: str, *, held_out: bool) -> Voice:
  """Draw a voice that is (or is not) kept out of training."""
  while True:
    accent = rng.choice(_ACCENTS)
    variant = rng.choice(_VARIANTS[gender])
    voice = Voice(
      f"{accent}+{variant}", rng.choice(_PITCHES), rng.choice(_RATES)
    )
    if is_held_out(voice) == held_out:
      return voice


def mandarin(rng: random.Random, gender: str) -> Voice:
  """Draw a voice for a language that training never hears."""
  variant = rng.choice(_VARIANTS[gender])
  return Voice(f"cmn+{variant}", rng.choice(_PITCHES), rng.choice(_RATES))


def is_held_out(voice: Voice) -> bool:
  """Return whether training never hears this accent with this variant."""
  accent, variant = voice.name.split("+")
  variants = [v for names in _VARIANTS.values() for v in names]
  return (_ACCENTS.index(accent) + variants.index(variant)) % 3 == 0
