"""Sections of encoders whose weights others have trained, at their real sizes.

The paths of the weights, and of the tokenizers, are the user's to give.
"""

from typing import Any


def wav2vec2_base() -> dict[str, Any]:
  """Sound: 12 layers x 768 = 9,216 numbers per video frame."""
  return dict(
    name="wav2vec2",
    sizes=dict(
      layers=12,
      width=768,
      ffn=3072,
      heads=12,
      channels=512,
      # 400 samples, 25 ms, for each vector; 320, 20 ms, from one to the next.
      kernels=(10, 3, 3, 3, 3, 2, 2),
      strides=(5, 2, 2, 2, 2, 2, 2),
      position_kernel=128,
      position_groups=16,
    ),
    interpolate="before",
    weights="",
    dtype="float32",
    batch_size=8,
  )


def umt5_xxl() -> dict[str, Any]:
  """Text, as Wan2.1 reads it: 5.7 B parameters, 4,096 numbers per token."""
  return _t5(
    "umt5",
    dict(
      layers=24,
      width=4096,
      ffn=10_240,
      heads=64,
      head=64,
      vocabulary=256_384,
      buckets=32,
      distance=128,
      positions="per_layer",
      activation="gelu_tanh",
    ),
    length=512,
  )


def ul2() -> dict[str, Any]:
  """Text: the encoder of UL2-20B, 8.7 B parameters, 4,096 numbers."""
  return _t5(
    "ul2",
    dict(
      layers=32,
      width=4096,
      ffn=16_384,
      heads=16,
      head=256,
      vocabulary=32_128,
      buckets=32,
      distance=128,
      positions="shared",
      activation="silu",
    ),
    length=256,
  )


def byt5_small() -> dict[str, Any]:
  """Bytes: 1,472 numbers for each of the first 255 and the end."""
  return _t5(
    "byt5",
    dict(
      layers=12,
      width=1472,
      ffn=3584,
      heads=6,
      head=64,
      vocabulary=384,
      buckets=32,
      distance=128,
      positions="shared",
      activation="gelu_tanh",
    ),
    length=256,
  ) | dict(tokenizer="bytes", cut=True)


def metaclip() -> dict[str, Any]:
  """Text: MetaCLIP ViT-bigG-14's, 1,280 numbers, stretched to 256 tokens."""
  return dict(
    name="clip_text",
    sizes=dict(
      layers=32,
      width=1280,
      ffn=5120,
      heads=20,
      vocabulary=49_408,
      positions=77,
      activation="quick_gelu",
    ),
    weights="",
    tokenizer="",
    length=256,
    cut=False,
    dtype="bfloat16",
    batch_size=16,
  )


def _t5(name: str, sizes: dict[str, Any], *, length: int) -> dict[str, Any]:
  return dict(
    name=name,
    sizes=sizes,
    weights="",
    tokenizer="",
    length=length,
    cut=False,
    dtype="bfloat16",
    batch_size=8,
  )
