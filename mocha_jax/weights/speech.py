"""What the parts of a backbone that hear are called in exported PyTorch."""

from mocha_jax.weights.tables import Entry


def entries() -> list[Entry]:
  """Make the table of the projector and of each layer's window attention."""
  layer = "blocks.{layer}"
  attend = "speech_attention"
  return [
    *linear("speech.first", "speech.first", "E P"),
    *linear("speech.second", "speech.second", "P D"),
    norm("blocks.speech_norm", f"{layer}.speech_norm"),
    *attention(f"blocks.{attend}", f"{layer}.{attend}"),
    Entry(f"blocks.{attend}.slots", f"{layer}.{attend}.slots"),
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


def attention(ours: str, theirs: str) -> list[Entry]:
  """Name the projections and norms of an attention without biases."""
  return [
    *(
      Entry(f"{ours}.{part}", f"{theirs}.{part}.weight", "(N H) D")
      for part in ("query", "key", "value")
    ),
    Entry(f"{ours}.out", f"{theirs}.out.weight", "D (N H)"),
    norm(f"{ours}.query_norm", f"{theirs}.query_norm"),
    norm(f"{ours}.key_norm", f"{theirs}.key_norm"),
  ]
