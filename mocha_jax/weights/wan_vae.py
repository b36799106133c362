"""Tables of names for Wan2.1's VAE: as diffusers has it, and as released.

diffusers: the folder vae/ of Wan-AI/Wan2.1-T2V-1.3B-Diffusers, whose class is
AutoencoderKLWan. Released: Wan2.1_VAE.pth of Wan-AI/Wan2.1-T2V-1.3B.
"""

import dataclasses
from collections.abc import Collection, Iterator

from mocha_jax.weights.tables import Entry

_LEVELS, _DOWN, _UP = 4, 2, 3  # Levels; residual blocks of one, on both ways.
_CONV, _FRAME_CONV, _POINTS = "O I f h w", "O I h w", "O I 1 1"


@dataclasses.dataclass(frozen=True)
class _Names:
  """How one side calls the parts; {level} and {block} count from 0."""

  norm1: str
  conv1: str
  norm2: str
  conv2: str
  shortcut: str
  first: str
  middle: tuple[str, str, str]
  down_block: str
  down: str
  up_block: str
  up: str
  last_norm: str
  last: str
  moments: str
  latents: str


_DIFFUSERS = _Names(
  norm1="norm1",
  conv1="conv1",
  norm2="norm2",
  conv2="conv2",
  shortcut="conv_shortcut",
  first="conv_in",
  middle=(
    "mid_block.resnets.0",
    "mid_block.attentions.0",
    "mid_block.resnets.1",
  ),
  down_block="down_blocks.{down}",
  down="down_blocks.{down}",
  up_block="up_blocks.{level}.resnets.{block}",
  up="up_blocks.{level}.upsamplers.0",
  last_norm="norm_out",
  last="conv_out",
  moments="quant_conv",
  latents="post_quant_conv",
)
_RELEASED = _Names(
  norm1="residual.0",
  conv1="residual.2",
  norm2="residual.3",
  conv2="residual.6",
  shortcut="shortcut",
  first="conv1",
  middle=("middle.0", "middle.1", "middle.2"),
  down_block="downsamples.{down}",
  down="downsamples.{down}",
  up_block="upsamples.{up}",
  up="upsamples.{up}",
  last_norm="head.0",
  last="head.2",
  moments="conv1",
  latents="conv2",
)


def entries(names: Collection[str]) -> list[Entry]:
  """Return the table for a file that holds these names."""
  is_released = "encoder.head.2.weight" in names
  return [*_entries(_RELEASED if is_released else _DIFFUSERS)]


def _entries(names: _Names) -> Iterator[Entry]:
  yield from _conv("moments", names.moments)
  yield from _conv("latents", names.latents)
  for side in ("encoder", "decoder"):
    yield from _conv(f"{side}.conv", f"{side}.{names.first}")
    before, attention, after = (f"{side}.{part}" for part in names.middle)
    yield from _residual(f"{side}.middle.before", before, names, wider=False)
    yield from _attention(f"{side}.middle.attention", attention)
    yield from _residual(f"{side}.middle.after", after, names, wider=False)
    yield from _norm(f"{side}.head.norm", f"{side}.{names.last_norm}")
    yield from _conv(f"{side}.head.conv", f"{side}.{names.last}")
  for level in range(_LEVELS):
    yield from _down_level(level, names)
    yield from _up_level(level, names)


def _down_level(level: int, names: _Names) -> Iterator[Entry]:
  ours = f"encoder.levels.{level}"
  for block in range(_DOWN + 1):
    at = dict(level=level, block=block, down=(_DOWN + 1) * level + block)
    if block < _DOWN:
      theirs = "encoder." + names.down_block.format(**at)
      # The first block of the second and of the third level widens.
      wider = block == 0 and level in (1, 2)
      yield from _residual(f"{ours}.blocks.{block}", theirs, names, wider=wider)
    elif level < _LEVELS - 1:
      theirs = "encoder." + names.down.format(**at)
      yield from _resample(f"{ours}.resample", theirs, time=level > 0)


def _up_level(level: int, names: _Names) -> Iterator[Entry]:
  ours = f"decoder.levels.{level}"
  for block in range(_UP + 1):
    at = dict(level=level, block=block, up=(_UP + 1) * level + block)
    if block < _UP:
      theirs = "decoder." + names.up_block.format(**at)
      # The second level takes half of its channels.
      wider = block == 0 and level == 1
      yield from _residual(f"{ours}.blocks.{block}", theirs, names, wider=wider)
    elif level < _LEVELS - 1:
      theirs = "decoder." + names.up.format(**at)
      yield from _resample(f"{ours}.resample", theirs, time=level < 2)


def _residual(
  ours: str, theirs: str, names: _Names, *, wider: bool
) -> Iterator[Entry]:
  yield from _norm(f"{ours}.norm1", f"{theirs}.{names.norm1}")
  yield from _conv(f"{ours}.conv1", f"{theirs}.{names.conv1}")
  yield from _norm(f"{ours}.norm2", f"{theirs}.{names.norm2}")
  yield from _conv(f"{ours}.conv2", f"{theirs}.{names.conv2}")
  if wider:
    yield from _conv(f"{ours}.shortcut", f"{theirs}.{names.shortcut}")


def _attention(ours: str, theirs: str) -> Iterator[Entry]:
  yield from _norm(f"{ours}.norm", f"{theirs}.norm", "c 1 1")
  for part, name in (("qkv", "to_qkv"), ("out", "proj")):
    yield Entry(f"{ours}.{part}", f"{theirs}.{name}.weight", _POINTS)
    yield Entry(f"{ours}.{part}_bias", f"{theirs}.{name}.bias")


def _resample(ours: str, theirs: str, *, time: bool) -> Iterator[Entry]:
  yield from _conv(f"{ours}.conv", f"{theirs}.resample.1", _FRAME_CONV)
  if time:
    yield from _conv(f"{ours}.time_conv", f"{theirs}.time_conv")


def _conv(ours: str, theirs: str, layout: str = _CONV) -> Iterator[Entry]:
  yield Entry(f"{ours}.kernel", f"{theirs}.weight", layout)
  yield Entry(f"{ours}.bias", f"{theirs}.bias")


def _norm(ours: str, theirs: str, layout: str = "c 1 1 1") -> Iterator[Entry]:
  yield Entry(f"{ours}.scale", f"{theirs}.gamma", layout)
