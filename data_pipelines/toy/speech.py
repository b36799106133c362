"""Real speech: espeak-ng's samples and the moment of every phoneme.

espeak-ng (GPL) stays outside: it is loaded as a shared library, from the wheel
`espeakng-loader`, when speech is made. It carries state from one utterance to
the next (the phase of its noise, for one), so the library is loaded afresh for
each: the same request gives the same samples, whatever was said before.
"""

import ctypes
import dataclasses
import functools
import importlib

import numpy as np
from jaxtyping import Float

# espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_PHONEME_EVENTS, _IN_IPA = 1, 2
_PHONEME, _END = 7, 0
_RATE, _PITCH = 1, 3
_UTF8 = 1


@dataclasses.dataclass(frozen=True)
class Voice:
  """A speaker: espeak-ng's name, pitch (0 to 99) and words per minute."""

  name: str
  pitch: int
  rate: int


@dataclasses.dataclass(frozen=True)
class Phoneme:
  """What is uttered (in IPA, empty for a pause) from `start`, in seconds."""

  start: float
  ipa: str


@dataclasses.dataclass(frozen=True)
class Utterance:
  """Speech between -1 and 1, and its phonemes in order."""

  samples: Float[np.ndarray, "A"]
  sample_rate: int
  phonemes: tuple[Phoneme, ...]

  @property
  def seconds(self) -> float:
    """Return how long the speech lasts."""
    return len(self.samples) / self.sample_rate


class _Id(ctypes.Union):
  _fields_ = (
    ("number", ctypes.c_int),
    ("name", ctypes.c_char_p),
    ("string", ctypes.c_char * 8),
  )


class _Event(ctypes.Structure):
  _fields_ = (
    ("type", ctypes.c_int),
    ("unique_identifier", ctypes.c_uint),
    ("text_position", ctypes.c_int),
    ("length", ctypes.c_int),
    ("audio_position", ctypes.c_int),
    ("sample", ctypes.c_int),
    ("user_data", ctypes.c_void_p),
    ("id", _Id),
  )


_Callback = ctypes.CFUNCTYPE(
  ctypes.c_int,
  ctypes.POINTER(ctypes.c_short),
  ctypes.c_int,
  ctypes.POINTER(_Event),
)


def synthesise(text: str, voice: Voice, *, sample_rate: int) -> Utterance:
  """Speak a text, resampled to `sample_rate` samples per second.

  Raises ImportError where the extra `toy` is missing, and ValueError for a
  voice that espeak-ng does not know.
  """
  import soxr

  samples, events, own_rate = _speak(text, voice)
  phonemes = tuple(Phoneme(at / own_rate, ipa) for at, ipa in events)
  sound = samples.astype(np.float32) / 32768
  sound = soxr.resample(sound, own_rate, sample_rate)
  return Utterance(sound, sample_rate, phonemes)


@functools.cache
def _paths() -> tuple[str, str]:
  """Return where the library and its data lie."""
  try:
    loader = importlib.import_module("espeakng_loader")
  except ImportError as e:
    raise ImportError(
      "speech for Cartoon Talkers needs espeak-ng: pip install mocha_jax[toy]",
      name="espeakng_loader",
    ) from e
  return loader.get_library_path(), loader.get_data_path()


def _speak(
  text: str, voice: Voice
) -> tuple[np.ndarray, list[tuple[int, str]], int]:
  chunks: list[np.ndarray] = []
  events: list[tuple[int, str]] = []

  @_Callback
  def listen(wave, count, event):
    if wave and count > 0:
      chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
    i = 0
    while event[i].type != _END:
      if event[i].type == _PHONEME:
        name = bytes(event[i].id.string).split(b"\0")[0]
        events.append((event[i].sample, name.decode("utf-8", "ignore")))
      i += 1
    return 0

  path, data = _paths()
  library = ctypes.CDLL(path)
  try:
    rate = library.espeak_Initialize(
      _SYNCHRONOUS, 0, data.encode(), _PHONEME_EVENTS | _IN_IPA
    )
    library.espeak_SetSynthCallback(listen)
    if rate <= 0 or library.espeak_SetVoiceByName(voice.name.encode()):
      raise ValueError(f"espeak-ng has no voice {voice.name!r}")
    library.espeak_SetParameter(_RATE, voice.rate, 0)
    library.espeak_SetParameter(_PITCH, voice.pitch, 0)
    spoken = text.encode()
    library.espeak_Synth(spoken, len(spoken) + 1, 0, 0, 0, _UTF8, None, None)
    library.espeak_Terminate()
  finally:
    _unload(library)
  return np.concatenate(chunks), events, rate


def _unload(library: ctypes.CDLL) -> None:
  """Give the library back, and with it all that it remembers."""
  # The standard library opens shared libraries but has no public way to close.
  import _ctypes

  _ctypes.dlclose(library._handle)
