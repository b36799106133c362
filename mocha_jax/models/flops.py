"""How many operations the model needs, part by part.

A multiply-add is 2 FLOPs; only matrix products count (norms, softmax,
modulation and positions do not), each as often as the mathematics asks for it:
nothing computed twice, no padding. Per clip and layer, with A = N x H and S
video frames,

  self_attention          8 T D A        queries, keys, values, output
  self_attention_scores   4 T T A        scores and their mix of values
  text_attention          4 T D A + 4 L D A + 4 T L A
  speech_attention        4 S D A + 4 f R D A + 4 T R N D
  mlp                     2 M T D F      M matrices: gate, up, down, or up, down

Speech attention is collapsed: keys and values are projected once per speech
token and folded once per window, and each video token meets R N vectors of D.
Slots add 4 R D A per step. Global speech attention is 4 T D A + 4 S D A +
4 T S A. Once per clip:

  patches                 4 T C D        C = patch^2 c values, in and out
  modulation              2 M            M numbers in its matrices
  text_projection         2 L M          M numbers in a frozen encoder's; for
                          trained text, per layer, 8 L D A' + 4 L L A' +
                          12 L D D
  speech_projection       2 S (E P + P D), E of all glued vectors
"""

from collections.abc import Mapping
from typing import Any

import jax

from mocha_jax.batch import Batch
from mocha_jax.models.backbone import BackboneConfig

# The backward pass makes two products of each: one per factor, or one where a
# factor is a frozen matrix. For what has no gradient of its own (latents,
# features; under 0.1 % in the big models) it is one too many.
TRAINING, FROZEN = 3, 2

# What of a model lies where, beside the parts of its layers.
_AROUND = {
  "patches": "patches",
  "out": "patches",
  "time": "modulation",
  "modulation": "modulation",
  "out_modulation": "modulation",
  "skip": "modulation",
  "text": "text_projection",
  "speech": "speech_projection",
}


def flops(
  config: BackboneConfig,
  clips: int,
  frames: int,
  rows: int,
  columns: int,
  text: Mapping[str, int],
) -> dict[str, float]:
  """Return the FLOPs of a forward pass by part.

  frames, rows, columns: the grid of video tokens of a clip (frames of latents;
    rows and columns of patches).
  text: tokens by encoder.
  """
  per_clip = _inputs(config, frames, rows * columns, text)
  layer = _layer(config, frames, rows * columns, sum(text.values()))
  per_clip |= {part: config.layers * n for part, n in layer.items()}
  parts = {part: float(clips * n) for part, n in per_clip.items()}
  if config.speech.attention == "window" and config.speech.order == "slots":
    slots = 4 * config.geometry.width * config.width * _across(config)
    parts["speech_attention"] += config.layers * slots
  return parts


def batch_flops(
  config: BackboneConfig, batch: Batch, clips: int | None = None
) -> dict[str, float]:
  """Return the FLOPs of a forward pass over a batch, of arrays or shapes.

  clips: so many like those of the batch; as many unless given.
  """
  own, frames, height, width, _ = batch.latents.shape
  text = {name: ids.shape[1] for name, ids in batch.condition.text.items()}
  return flops(
    config,
    own if clips is None else clips,
    frames,
    height // config.patch,
    width // config.patch,
    text,
  )


def training(forward: Mapping[str, float], trained: Any) -> dict[str, float]:
  """Return the FLOPs of a training step by part, given its forward pass's.

  trained: the tree of what is trained. Adapters of a part do not count, but
    leave it frozen.
  """
  parts = {"self_attention_scores"}  # Both factors are activations.
  for path, _ in jax.tree.leaves_with_path(trained):
    first, *rest = (str(key.key) for key in path)
    if "lora" not in rest:
      parts.add(rest[0] if first == "blocks" else _AROUND.get(first, first))
  return {
    part: (TRAINING if part in parts else FROZEN) * n
    for part, n in forward.items()
  }


def _across(config: BackboneConfig) -> int:
  return config.heads * config.head


def _layer(
  config: BackboneConfig, frames: int, tokens_per_frame: int, text: int
) -> dict[str, int]:
  """Return the FLOPs of one layer for one clip."""
  width, across = config.width, _across(config)
  video = frames * tokens_per_frame
  return {
    "self_attention": 8 * video * width * across,
    "self_attention_scores": 4 * video * video * across,
    "text_attention": 4
    * (video * width + text * width + video * text)
    * across,
    "speech_attention": _speech(config, frames, video),
    "mlp": 2 * config.mlp_matrices * video * width * config.ffn,
  }


def _speech(config: BackboneConfig, frames: int, video: int) -> int:
  """Return the FLOPs of a layer's speech attention for one clip."""
  width, across = config.width, _across(config)
  speech = _video_frames(config, frames)
  if config.speech.attention == "global":
    return 4 * (video * width + speech * width + video * speech) * across
  window = config.geometry.width
  fold = (speech + frames * window) * width * across
  return 4 * (fold + video * window * config.heads * width)


def _video_frames(config: BackboneConfig, frames: int) -> int:
  return config.ratio * (frames - config.causal) + config.causal


def _inputs(
  config: BackboneConfig,
  frames: int,
  tokens_per_frame: int,
  text: Mapping[str, int],
) -> dict[str, int]:
  """Return the FLOPs of what surrounds the layers, for one clip."""
  width, speech = config.width, config.speech
  values = config.patch**2 * config.channels
  glued = (2 * speech.context + 1) * speech.features
  return {
    "patches": 4 * frames * tokens_per_frame * values * width,
    "modulation": 2 * config.modulation_weights,
    "text_projection": sum(
      _text(config, name, tokens) for name, tokens in text.items()
    ),
    "speech_projection": 2
    * _video_frames(config, frames)
    * (glued + width)
    * speech.hidden,
  }


def _text(config: BackboneConfig, name: str, tokens: int) -> int:
  """Return the FLOPs that bring one encoder's tokens to the model's width."""
  width = config.width
  if name in config.frozen_text:
    return 2 * tokens * config.frozen_text_weights(name)
  assert config.small_text is not None
  across = config.heads * (width // config.heads)
  attention = 8 * tokens * width * across + 4 * tokens**2 * across
  return config.small_text.layers * (attention + 12 * tokens * width**2)
