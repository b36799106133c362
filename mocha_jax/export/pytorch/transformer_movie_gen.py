"""The Movie Gen backbone that also hears, in PyTorch.

Every layer adds the positions of its tokens, then

  x += gate * self_attention(modulate(norm(x)))
  x += text_attention(norm(x), text)
  x += speech_attention(norm(x), speech)
  x += gate * swiglu(modulate(norm(x)))

with shift, scale and gate from the flow time. What depends on the clip alone
is computed once per clip, by `encode`: text and speech projected to the model's
width, and for each layer what its attention needs of the speech.

Letters: B clips, f h w a grid of latents, T = f h w video tokens, L text
tokens, S speech tokens (video frames), R speech tokens in a window, N heads, H
head width, D model width, c latent channels.
"""

import json
import math
import os
from typing import NamedTuple

import safetensors
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import is_accelerate_available
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from torch.nn import functional

EPSILON = 1e-6
ADAPTER_SETTINGS = ("r", "lora_alpha", "target_modules")
# PEFT's settings that say how adapters were trained, not what they add.
HOW_TRAINED = {
  *("auto_mapping", "base_model_name_or_path", "exclude_modules"),
  *("inference_mode", "lora_dropout", "megatron_core", "peft_type"),
  *("peft_version", "qalora_group_size", "revision", "runtime_config"),
  "task_type",
}
TIME_FEATURES = 256


class Folded(NamedTuple):
  """A layer's attention to the speech of a clip, a softmax MLP per frame.

  key: [B f D N R]; value: [B f N R D]; bias: [B f 1 N R], 0 where a slot
  of a window holds a token and -inf where it does not.
  """

  key: torch.Tensor
  value: torch.Tensor
  bias: torch.Tensor


class Heard(NamedTuple):
  """A layer's keys and values of all speech of a clip, [B N S H]."""

  key: torch.Tensor
  value: torch.Tensor


class Encoded(NamedTuple):
  """What `forward` needs of a clip: text [B L D], and speech layer by layer.

  text_mask: [B L].
  speech_rows: which row of the speech each clip hears, [B], unless its own.
  """

  text: torch.Tensor
  text_mask: torch.Tensor
  speech: list[Folded] | list[Heard]
  speech_rows: torch.Tensor | None = None

  def heard(self, speech: Folded | Heard) -> Folded | Heard:
    """Return what each clip hears, of a layer's speech."""
    if self.speech_rows is None:
      return speech
    return type(speech)(*[x[self.speech_rows] for x in speech])


class RMSNorm(nn.Module):
  """x / rms(x) * weight over the last axis, in float32."""

  def __init__(self, width: int):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(width))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Return an array like x."""
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + EPSILON)
    return (y * self.weight).to(x.dtype)


class SpeechProjector(nn.Module):
  """Glues each vector to its neighbours and brings it to D by a 2-layer MLP."""

  def __init__(self, features: int, context: int, hidden: int, width: int):
    super().__init__()
    self.context = context
    self.first = nn.Linear((2 * context + 1) * features, hidden)
    self.second = nn.Linear(hidden, width)

  def forward(self, speech: torch.Tensor) -> torch.Tensor:
    """Project [B S E] to [B S D]."""
    last = speech.shape[1] - 1
    at = torch.arange(last + 1, device=speech.device)[:, None]
    near = torch.arange(-self.context, self.context + 1, device=speech.device)
    glued = speech[:, (at + near).clamp(0, last)].flatten(2)
    return self.second(functional.silu(self.first(glued)))


class SpeechWindowAttention(nn.Module):
  """Attends each video token to the R speech tokens of its own time.

    k_j = rot_j norm((s_j + e_j) Wk)          v_j = (s_j + e_j) Wv
    K'_jn = Wq_n k_jn / sqrt(H)               V'_jn = v_jn Wo_n
    out = sum_n sum_j softmax_j(x·K'_jn) V'_jn

  for the tokens s_j in the window of x's latent frame: its own `ratio` video
  frames and one more on either side. e_j is a learned vector per slot (order
  "slots"), rot_j a fixed rotation (order "rope"). `fold` makes K' and V' once
  per clip, `forward` is two matrix products. At the ends of the speech, edge
  "clip" leaves slots empty and "shift" moves the window inwards.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    head: int,
    ratio: int,
    causal: bool,
    edge: str,
    order: str,
  ):
    super().__init__()
    self.heads, self.head = heads, head
    self.ratio, self.causal, self.slots_wide = ratio, causal, ratio + 2
    self.edge, self.order = edge, order
    self.query = nn.Linear(width, heads * head, bias=False)
    self.key = nn.Linear(width, heads * head, bias=False)
    self.value = nn.Linear(width, heads * head, bias=False)
    self.out = nn.Linear(heads * head, width, bias=False)
    self.key_norm = RMSNorm(head)
    self.slots = (
      nn.Parameter(torch.zeros(self.slots_wide, width))
      if order == "slots"
      else None
    )

  def fold(self, speech: torch.Tensor) -> Folded:
    """Fold projected speech [B S D] and the projections into K' and V'."""
    index, valid = self.windows(speech.shape[1], speech.device)
    tokens = speech[:, index]  # [B f R D]
    if self.slots is not None:
      tokens = tokens + self.slots
    split = (self.heads, self.head)
    key = self.key_norm(self.key(tokens).unflatten(-1, split))
    if self.order == "rope":  # By the slot's distance from the middle one.
      slot = torch.arange(self.slots_wide, device=key.device)
      key = rotated(key, slot - (self.slots_wide - 1) / 2)
    key = key / math.sqrt(self.head)
    value = self.value(tokens).unflatten(-1, split)
    query, out = self.query.weight, self.out.weight
    key = torch.einsum("bfrnh,nhd->bfdnr", key, query.unflatten(0, split))
    value = torch.einsum("bfrnh,dnh->bfnrd", value, out.unflatten(1, split))
    bias = torch.zeros(valid.shape, device=speech.device)
    bias = bias.masked_fill(~valid, -math.inf).to(speech.dtype)
    bias = bias[:, None, None].expand(-1, 1, self.heads, -1).flatten(2)
    return Folded(
      key.flatten(3),
      value.flatten(2, 3),
      bias.repeat(speech.shape[0], 1, 1, 1),
    )

  def windows(
    self, tokens: int, device: torch.device
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each window's tokens, [f R], and which of them are there."""
    frames = (tokens - self.causal) // self.ratio + self.causal
    lead = self.ratio if self.causal else 1
    first = self.ratio * torch.arange(frames, device=device) - lead
    if self.edge == "shift":
      first = first.clamp(0, max(0, tokens - self.slots_wide))
    index = first[:, None] + torch.arange(self.slots_wide, device=device)
    valid = (index >= 0) & (index < tokens)
    return index.clamp(0, tokens - 1), valid

  def forward(self, x: torch.Tensor, folded: Folded) -> torch.Tensor:
    """Attend, [B T D] to [B T D]."""
    key, value, bias = (y.flatten(0, 1) for y in folded)
    by_frame = x.reshape(len(key), -1, x.shape[-1])
    scores = torch.baddbmm(bias, by_frame, key)
    scores = scores.unflatten(-1, (self.heads, self.slots_wide))
    weight = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
    return torch.bmm(weight.flatten(2), value).reshape(x.shape)


class GlobalSpeechAttention(nn.Module):
  """Attends each video token to all speech tokens of its clip.

    k_j = rot_j norm((s_j + e_j) Wk)          v_j = (s_j + e_j) Wv
    out = sum_j softmax_j(rot(x Wq)·k_j / sqrt(H)) v_j Wo

  e_j: fixed sinusoids (position "sinusoidal"), a learned vector of each of at
  most `longest` tokens ("learned"), or none. With position "rope" keys turn by
  their video frame, x by the middle of its latent's. `fold` makes keys and
  values once per clip.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    head: int,
    ratio: int,
    causal: bool,
    position: str,
    longest: int,
  ):
    super().__init__()
    self.heads, self.head = heads, head
    self.ratio, self.causal, self.position = ratio, causal, position
    self.query = nn.Linear(width, heads * head, bias=False)
    self.key = nn.Linear(width, heads * head, bias=False)
    self.value = nn.Linear(width, heads * head, bias=False)
    self.out = nn.Linear(heads * head, width, bias=False)
    self.key_norm = RMSNorm(head)
    self.learned = (
      nn.Parameter(torch.zeros(longest, width))
      if position == "learned"
      else None
    )

  def fold(self, speech: torch.Tensor) -> Heard:
    """Make keys and values of projected speech [B S D]."""
    tokens, width = speech.shape[1:]
    at = torch.arange(tokens, device=speech.device)
    if self.position == "sinusoidal":
      angle = at[:, None] * frequencies(width, speech.device)
      wave = torch.cat([angle.sin(), angle.cos()], dim=-1)
      speech = speech + wave.to(speech.dtype)
    if self.learned is not None:
      if tokens > len(self.learned):
        raise ValueError(
          f"speech of {tokens} video frames: the model has learned positions "
          f"of {len(self.learned)}"
        )
      speech = speech + self.learned[:tokens]
    split = (self.heads, self.head)
    key = self.key_norm(self.key(speech).unflatten(-1, split))
    if self.position == "rope":
      key = rotated(key, at)
    value = self.value(speech).unflatten(-1, split)
    return Heard(key.transpose(1, 2), value.transpose(1, 2))

  def forward(self, x: torch.Tensor, heard: Heard) -> torch.Tensor:
    """Attend, [B T D] to [B T D]."""
    query = self.query(x).unflatten(-1, (self.heads, self.head))
    if self.position == "rope":
      at = self.middles(heard.key.shape[2], x.device)
      query = rotated(query, at.repeat_interleave(x.shape[1] // len(at)))
    mixed = functional.scaled_dot_product_attention(
      query.transpose(1, 2), heard.key, heard.value
    )
    return self.out(mixed.transpose(1, 2).flatten(2))

  def middles(self, tokens: int, device: torch.device) -> torch.Tensor:
    """Return the middle of each latent frame's video frames, [f]."""
    frames = (tokens - self.causal) // self.ratio + self.causal
    last = self.ratio - 1
    middle = self.ratio * torch.arange(frames, device=device) + last / 2
    return (middle - last).clamp(min=0) if self.causal else middle


def frequencies(width: int, device: torch.device) -> torch.Tensor:
  """Return the angles per place of half as many pairs as `width`."""
  half = width // 2
  return 10_000.0 ** (-torch.arange(half, device=device) / half)


def rotated(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
  """Turn the pairs (x[i], x[i + H/2]) of [... P N H] by their places, [P]."""
  angle = at[:, None] * frequencies(x.shape[-1], x.device)
  cos, sin = angle.cos()[:, None], angle.sin()[:, None]
  first, second = x.float().chunk(2, dim=-1)
  turned = (first * cos - second * sin, first * sin + second * cos)
  return torch.cat(turned, dim=-1).to(x.dtype)


class Adaptable(nn.Module):
  """Adds low-rank adapters to kernels of a model, and takes them away.

    W + scale * (alpha / rank) * B A

  bases: on the CPU, by name, kernels that something was added to, without it.
  """

  bases: dict[str, torch.Tensor]

  @torch.no_grad()
  def add_lora(self, file: str | os.PathLike, scale: float = 1.0) -> None:
    """Add adapters, as `mocha export --lora apart` wrote them.

    Raises:
      ValueError: the file does not fit the model, which stays as it was.
    """
    with safetensors.safe_open(file, "pt") as held:
      tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
      metadata = held.metadata() or {}
    rank, alpha = adapter_settings(
      json.loads(metadata.get("lora_adapter_metadata", "{}")), file
    )
    kernels, shapes = {}, {}
    for name, module in self.named_modules():
      stem = f"transformer.{name}.lora"
      pair = f"{stem}_A.weight", f"{stem}_B.weight"
      if isinstance(module, nn.Linear) and not tensors.keys().isdisjoint(pair):
        kernels[f"{name}.weight"] = pair
        shapes[pair[0]] = (rank, module.in_features)
        shapes[pair[1]] = (module.out_features, rank)
    given = {name: tuple(x.shape) for name, x in tensors.items()}
    if wrong := given.items() ^ shapes.items():
      names = sorted({name for name, _ in wrong})
      raise ValueError(f"{file} does not fit this model in {', '.join(names)}")
    for name, pair in kernels.items():
      kernel = self.get_parameter(name)
      if name not in self.bases:
        self.bases[name] = kernel.to("cpu", copy=True)
      down, up = (tensors[x].to(kernel.device, torch.float32) for x in pair)
      kernel.copy_(kernel + scale * alpha / rank * (up @ down))

  @torch.no_grad()
  def remove_lora(self) -> None:
    """Take all adapters away: the kernels are again what they were."""
    for name, base in self.bases.items():
      self.get_parameter(name).copy_(base)
    self.bases.clear()


def adapter_settings(told: dict, file: str | os.PathLike) -> tuple[int, float]:
  """Return the rank and alpha of adapters from what a file tells of them.

  Raises:
    ValueError: it lacks a setting, or has one that changes what they add.
  """
  told = {name.removeprefix("transformer."): x for name, x in told.items()}
  if lacking := sorted({*ADAPTER_SETTINGS} - {*told}):
    raise ValueError(
      f"{file}: lora_adapter_metadata of the transformer lacks "
      f"{', '.join(lacking)}"
    )
  if told.get("init_lora_weights") in (True, "gaussian"):
    del told["init_lora_weights"]  # Others change what they are added to.
  unknown = told.keys() - {*ADAPTER_SETTINGS} - HOW_TRAINED
  unset = (None, False, "none", [], {})
  if strange := sorted(name for name in unknown if told[name] not in unset):
    raise ValueError(
      f"{file}: lora_adapter_metadata sets {', '.join(strange)}, which "
      "adapters here do not have"
    )
  return told["r"], told["lora_alpha"]


class KeepsIslands(nn.Module):
  """Holds the parts of a model that it calls its islands in float32."""

  islands: tuple[str, ...]

  def keep_islands(self) -> None:
    """Bring the islands' parameters to float32."""
    for name, parameter in self.named_parameters():
      if self._is_island(name):
        parameter.data = parameter.data.float()

  def _is_island(self, name: str) -> bool:
    return not set(self.islands).isdisjoint(name.split("."))

  def _apply(self, fn, recurse=True):
    """Do what `to`, `bfloat16` and their like ask for; islands only move."""
    tensors = (*self.named_parameters(), *self.named_buffers())
    islands = {id(x) for name, x in tensors if self._is_island(name)}

    def applied(x: torch.Tensor) -> torch.Tensor:
      y = fn(x)
      cast = id(x) in islands and y.dtype != x.dtype
      return x.to(y.device) if cast else y

    return super()._apply(applied, recurse)


def make_speech_attention(config, width: int, longest: int) -> nn.Module:
  """Make what a layer hears by, as the transformer's config says.

  longest: video frames of the longest clip.
  """
  given = (width, config.heads, config.head, config.ratio, config.causal)
  if config.speech_attention == "global":
    return GlobalSpeechAttention(*given, config.speech_position, longest)
  return SpeechWindowAttention(*given, config.speech_edge, config.speech_order)


class Attention(nn.Module):
  """Multi-head attention of x to context (to itself without one)."""

  def __init__(self, width: int, heads: int, head: int):
    super().__init__()
    self.heads, self.head = heads, head
    self.query = nn.Linear(width, heads * head, bias=False)
    self.key = nn.Linear(width, heads * head, bias=False)
    self.value = nn.Linear(width, heads * head, bias=False)
    self.out = nn.Linear(heads * head, width, bias=False)
    self.query_norm = RMSNorm(head)
    self.key_norm = RMSNorm(head)

  def forward(
    self,
    x: torch.Tensor,
    context: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
  ) -> torch.Tensor:
    """Attend, [B T D] to [B T D]; mask [B S] is True on what is there."""
    context = x if context is None else context
    split = lambda y: y.unflatten(-1, (self.heads, self.head))
    query = self.query_norm(split(self.query(x)))
    key = self.key_norm(split(self.key(context)))
    value = split(self.value(context))
    mixed = functional.scaled_dot_product_attention(
      *(y.transpose(1, 2) for y in (query, key, value)),
      attn_mask=None if mask is None else mask[:, None, None],
    )
    return self.out(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
  """(silu(x Wg) * x Wu) Wd."""

  def __init__(self, width: int, hidden: int):
    super().__init__()
    self.gate = nn.Linear(width, hidden, bias=False)
    self.up = nn.Linear(width, hidden, bias=False)
    self.down = nn.Linear(hidden, width, bias=False)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Return an array like x."""
    return self.down(functional.silu(self.gate(x)) * self.up(x))


class TimeEmbedding(nn.Module):
  """Flow time in 0..1 to a vector: sinusoids of 1000 t, then a 2-layer MLP."""

  def __init__(self, width: int):
    super().__init__()
    self.first = nn.Linear(TIME_FEATURES, width)
    self.second = nn.Linear(width, width)

  def forward(self, t: torch.Tensor) -> torch.Tensor:
    """Embed [B] as [B D], in float32."""
    half = TIME_FEATURES // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=t.device) / half)
    angle = 1000.0 * t.float()[:, None] * frequency
    features = torch.cat([angle.cos(), angle.sin()], dim=-1)
    return self.second(functional.silu(self.first(features)))


class Positions(nn.Module):
  """Learned vectors of frame, row and column, added."""

  def __init__(self, frames: int, rows: int, columns: int, width: int):
    super().__init__()
    make = lambda count: nn.Parameter(torch.zeros(count, width))
    self.frame, self.row, self.column = make(frames), make(rows), make(columns)

  def forward(self, f: int, h: int, w: int) -> torch.Tensor:
    """Return the positions of a grid of tokens, [T D]."""
    tables = (self.frame, self.row, self.column)
    if any(n > len(y) for n, y in zip((f, h, w), tables, strict=True)):
      raise ValueError(
        f"{f} x {h} x {w} frames, rows, columns of tokens: the model's "
        f"position tables hold {' x '.join(str(len(y)) for y in tables)}"
      )
    grid = self.frame[:f, None, None] + self.row[:h, None] + self.column[:w]
    return grid.flatten(0, 2)


class TextBlock(nn.Module):
  """A pre-norm transformer block over text tokens."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.attention_norm = RMSNorm(width)
    self.attention = Attention(width, heads, width // heads)
    self.mlp_norm = RMSNorm(width)
    self.mlp = SwiGLU(width, 2 * width)

  def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return an array like x, [B L D]."""
    x = x + self.attention(self.attention_norm(x), mask=mask)
    return x + self.mlp(self.mlp_norm(x))


class TrainedText(nn.Module):
  """Embeds hashed words and pairs of neighbours, then mixes them."""

  PAIR = 1_000_003

  def __init__(
    self, vocabulary: int, length: int, layers: int, width: int, heads: int
  ):
    super().__init__()
    self.word = nn.Parameter(torch.zeros(vocabulary, width))
    self.pair = nn.Parameter(torch.zeros(vocabulary, width))
    self.position = nn.Parameter(torch.zeros(length, width))
    self.blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(layers))
    self.norm = nn.LayerNorm(width, eps=EPSILON)

  def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Embed ids [B L] as [B L D]."""
    before = functional.pad(ids.long(), (1, 0))[:, :-1]
    pair = (before * self.PAIR + ids) % 2**32 % len(self.pair)
    x = self.word[ids] + self.pair[pair] + self.position[: ids.shape[1]]
    for block in self.blocks:
      x = block(x, mask)
    return self.norm(x)


class FrozenText(nn.Module):
  """Brings another encoder's features to D: Linear, then LayerNorm."""

  def __init__(self, features: int, width: int):
    super().__init__()
    self.linear = nn.Linear(features, width, bias=False)
    self.norm = nn.LayerNorm(width, eps=EPSILON)

  def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Project [B L E] to [B L D]."""
    return self.norm(self.linear(features.to(self.linear.weight.dtype)))


class Modulation(nn.Module):
  """A layer's own offsets to the modulation that all layers share."""

  def __init__(self, width: int):
    super().__init__()
    self.offset = nn.Parameter(torch.zeros(2, 3, width))

  def forward(self, shared: torch.Tensor) -> list[torch.Tensor]:
    """Return shift, scale, gate of attention, then of the MLP, [B 1 D]."""
    return list((shared + self.offset).flatten(1, 2)[:, :, None].unbind(1))


def modulate(
  x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
  """Return x * (1 + scale) + shift, in the type of x."""
  return (x * (1 + scale) + shift).to(x.dtype)


class Block(nn.Module):
  """One layer."""

  def __init__(
    self, width: int, ffn: int, heads: int, head: int, hear: nn.Module
  ):
    super().__init__()
    self.modulation = Modulation(width)
    self.self_norm = RMSNorm(width)
    self.self_attention = Attention(width, heads, head)
    self.text_norm = RMSNorm(width)
    self.text_attention = Attention(width, heads, head)
    self.speech_norm = RMSNorm(width)
    self.speech_attention = hear
    self.mlp_norm = RMSNorm(width)
    self.mlp = SwiGLU(width, ffn)

  def forward(
    self,
    x: torch.Tensor,
    shared: torch.Tensor,
    text: torch.Tensor,
    text_mask: torch.Tensor,
    speech: Folded | Heard,
  ) -> torch.Tensor:
    """Return an array like x, [B T D]."""
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(shared)
    y = self.self_attention(modulate(self.self_norm(x), shift, scale))
    x = x + (y * gate).to(x.dtype)
    x = x + self.text_attention(self.text_norm(x), text, text_mask)
    x = x + self.speech_attention(self.speech_norm(x), speech)
    y = self.mlp(modulate(self.mlp_norm(x), mlp_shift, mlp_scale))
    return x + (y * mlp_gate).to(x.dtype)


class MochaMovieGenTransformer3DModel(
  Adaptable, KeepsIslands, ModelMixin, ConfigMixin, PeftAdapterMixin
):
  """Predicts the velocity x1 - eps of noised latents; see the module.

  ratio, causal: video frames per latent frame, and whether the first stands
  alone. frozen_text: feature width by text encoder; small_text: vocabulary,
  length and layers of the one that is part of this model. speech_*: features
  per video frame, neighbours glued on either side, hidden width of the
  projector, and which attention, "window" or "global", with what the two need.
  """

  _no_split_modules = ["Block"]  # noqa: RUF012
  _repeated_blocks = ["Block"]  # noqa: RUF012
  _supports_gradient_checkpointing = True
  # What stays in float32 if another `torch_dtype` is asked for: with accelerate
  # diffusers sees to it; without, it refuses to load what names such parts, but
  # copies weights into what `keep_islands` made.
  islands = (
    *("time", "modulation", "positions", "text", "final_modulation", "final"),
    *("skip", "self_norm", "text_norm", "speech_norm", "mlp_norm"),
    *("query_norm", "key_norm", "final_norm"),
  )
  _keep_in_fp32_modules = [*islands] if is_accelerate_available() else None
  _supports_param_buffer_assignment = False  # Which would lose those types.

  @register_to_config
  def __init__(
    self,
    layers: int,
    width: int,
    ffn: int,
    heads: int,
    head: int,
    channels: int,
    patch: int,
    ratio: int,
    causal: bool,
    max_frames: int,
    max_rows: int,
    max_columns: int,
    speech_features: int,
    speech_context: int,
    speech_hidden: int,
    speech_attention: str,
    speech_edge: str,
    speech_order: str,
    speech_position: str,
    frozen_text: dict,
    small_text: dict | None,
    noise_skip: bool,
  ):
    super().__init__()
    self.patches = nn.Linear(patch**2 * channels, width)
    self.positions = Positions(max_frames, max_rows, max_columns, width)
    self.time = TimeEmbedding(width)
    self.modulation = nn.Linear(width, 6 * width)
    text = {name: FrozenText(n, width) for name, n in frozen_text.items()}
    if small_text is not None:
      text["small_text"] = TrainedText(**small_text, width=width, heads=heads)
    self.text = nn.ModuleDict(text)
    self.speech = SpeechProjector(
      speech_features, speech_context, speech_hidden, width
    )
    hear = lambda: make_speech_attention(
      self.config, width, self.max_video_frames
    )
    self.blocks = nn.ModuleList(
      Block(width, ffn, heads, head, hear()) for _ in range(layers)
    )
    self.final_norm = RMSNorm(width)
    self.final_modulation = nn.Linear(width, 2 * width)
    self.final = nn.Linear(width, patch**2 * channels)
    self.skip = nn.Linear(width, channels) if noise_skip else None
    self.bases = {}
    self.gradient_checkpointing = False
    self.keep_islands()

  @property
  def max_video_frames(self) -> int:
    """Video frames of the longest clip that the position tables allow."""
    causal = self.config.causal
    return self.config.ratio * (self.config.max_frames - causal) + causal

  @apply_forward_hook  # So that offloading brings the weights for it.
  def encode(
    self,
    speech: torch.Tensor,
    text: dict[str, torch.Tensor],
    text_mask: dict[str, torch.Tensor],
    speech_rows: torch.Tensor | None = None,
  ) -> Encoded:
    """Do once per clip what does not depend on the noised latents.

    speech: one vector per video frame, [B S E], zeros where there is none.
    speech_rows: which of them each clip hears, where several hear the same.
    text, text_mask: by encoder, ids [B L] or features [B L E], and a mask.
    """
    names = sorted(self.text)
    if names != sorted(text):
      raise ValueError(f"text of {sorted(text)}, but the model reads {names}")
    dtype = self.patches.weight.dtype
    tokens = [self.text[name](text[name], text_mask[name]) for name in names]
    projected = self.speech(speech.to(dtype))
    return Encoded(
      torch.cat(tokens, dim=1).to(dtype),
      torch.cat([text_mask[name] for name in names], dim=1),
      [block.speech_attention.fold(projected) for block in self.blocks],
      speech_rows,
    )

  def forward(
    self,
    hidden_states: torch.Tensor,
    timestep: torch.Tensor,
    encoded: Encoded,
    return_dict: bool = True,
  ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
    """Return the velocity, float32 [B c f h w], of latents like it.

    timestep: flow time [B], 0 for noise and 1 for data.
    """
    frames, *size = hidden_states.shape[2:]
    patch, dtype = self.config.patch, self.patches.weight.dtype
    rows, columns = (n // patch for n in size)
    grid = hidden_states.unflatten(4, (columns, patch))
    grid = grid.unflatten(3, (rows, patch)).permute(0, 2, 3, 5, 4, 6, 1)
    x = self.patches(grid.flatten(4).flatten(1, 3).to(dtype))
    position = self.positions(frames, rows, columns).to(dtype)
    time = functional.silu(self.time(timestep))
    shared = self.modulation(time).unflatten(1, (2, 3, -1))
    for block, speech in zip(self.blocks, encoded.speech, strict=True):
      heard = encoded.heard(speech)
      given = (x + position, shared, encoded.text, encoded.text_mask, heard)
      if self.gradient_checkpointing and torch.is_grad_enabled():
        x = self._gradient_checkpointing_func(block, *given)
      else:
        x = block(*given)
    shift, scale = self.final_modulation(time)[:, None].chunk(2, dim=-1)
    x = modulate(self.final_norm(x), shift, scale)
    out = self.final(x.float()).unflatten(1, (frames, rows, columns))
    out = out.unflatten(4, (patch, patch, -1)).permute(0, 6, 1, 2, 4, 3, 5)
    out = out.flatten(5, 6).flatten(3, 4)
    if self.skip is not None:
      out = out + self.skip(time)[:, :, None, None, None] * hidden_states
    return Transformer2DModelOutput(out) if return_dict else (out,)
