"""What the parts of a backbone that hear are called in exported PyTorch."""

from mocha_jax.weights.tables import Entry


def entries() -> list[Entry]:
  """Make the table of the projector and of each layer's speech attention.

  Not every attention has vectors of its tokens' places, `slots` of a window or
  `learned` of a clip.
  """
  layer = "blocks.{layer}"
  attend = "speech_attention"
  return [
    *linear("speech.first", "speech.first", "E P"),
    *linear("speech.second", "speech.second", "P D"),
    norm("blocks.speech_norm", f"{layer}.speech_norm"),
    *projections(f"blocks.{attend}", f"{layer}.{attend}"),
    norm(f"blocks.{attend}.key_norm", f"{layer}.{attend}.key_norm"),
    *(
      Entry(f"blocks.{attend}.{table}", f"{layer}.{attend}.{table}")
      for table in ("slots", "learned")
    ),
  ]


def linear(ours: str, theirs: str, letters: str) -> list[Entry]:
  """Name a `Linear`, whose kernel PyTorch has with the output first.

  letters: of the kernel, input and output.
  """
  into, out = letters.split()
  return [
    Entry(f"{ours}.kernel", f"{theirs}.weight", f"{out} {into}", letters),
    Entry(f"{ours}.bias", f"{theirs}.bias"),
  ]


def norm(ours: str, theirs: str) -> Entry:
  """Name the scale of a norm."""
  return Entry(f"{ours}.scale", f"{theirs}.weight")


def projections(ours: str, theirs: str) -> list[Entry]:
  """Name the four projections of an attention without biases."""
  into = [
    Entry(f"{ours}.{part}", f"{theirs}.{part}.weight", "(N H) D")
    for part in ("query", "key", "value")
  ]
  return [*into, Entry(f"{ours}.out", f"{theirs}.out.weight", "D (N H)")]
