"""The Wan2.1 backbone with speech window attention, in PyTorch.

Diffusers' own layers, and after the text attention of each

  x += speech_attention(norm(x), speech)

What depends on the clip alone is computed once per clip, by `encode`: text
projected to the model's width, and for each layer the speech folded into its
attention. The other parts have the names of `WanTransformer3DModel`.

Letters: B clips, f h w a grid of latents, T video tokens, L text tokens, S
speech tokens (video frames), R speech tokens in a window, N heads, H head
width, D model width, c latent channels, E features.
"""
# pyright: reportMissingImports=false

import math
from typing import NamedTuple

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.utils import is_accelerate_available
from torch import nn
from torch.nn import functional

EPSILON = 1e-6


class Folded(NamedTuple):
  """A layer's attention to the speech of a clip, a softmax MLP per frame.

  key: [B f, D, N R]; value: [B f, N R, D]; bias: [B f, 1, N R], 0 where a slot
  of a window holds a token and -inf where it does not.
  """

  key: torch.Tensor
  value: torch.Tensor
  bias: torch.Tensor


class Encoded(NamedTuple):
  """What `forward` needs of a clip: text [B L D], and speech layer by layer."""

  text: torch.Tensor
  speech: list[Folded]


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
    if self.order == "rope":
      key = self.rotate(key)
    key = key / math.sqrt(self.head)
    value = self.value(tokens).unflatten(-1, split)
    query, out = self.query.weight, self.out.weight
    key = torch.einsum("bfrnh,nhd->bfdnr", key, query.unflatten(0, split))
    value = torch.einsum("bfrnh,dnh->bfnrd", value, out.unflatten(1, split))
    bias = torch.zeros(valid.shape, device=speech.device)
    bias = bias.masked_fill(~valid, -math.inf).to(speech.dtype)
    bias = bias[:, None, None].expand(-1, 1, self.heads, -1).flatten(2)
    return Folded(
      key.flatten(3).flatten(0, 1),
      value.flatten(2, 3).flatten(0, 1),
      bias.repeat(speech.shape[0], 1, 1),
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

  def rotate(self, key: torch.Tensor) -> torch.Tensor:
    """Rotate keys [B f R N H] by their slot's distance from the middle."""
    half, device = self.head // 2, key.device
    slot = torch.arange(self.slots_wide, device=device).float()
    frequency = 10_000.0 ** (-torch.arange(half, device=device) / half)
    angle = (slot - (self.slots_wide - 1) / 2)[:, None] * frequency
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, second = key.float().chunk(2, dim=-1)
    turned = (first * cos - second * sin, first * sin + second * cos)
    return torch.cat(turned, dim=-1).to(key.dtype)

  def forward(self, x: torch.Tensor, folded: Folded) -> torch.Tensor:
    """Attend, [B T D] to [B T D]."""
    by_frame = x.reshape(folded.key.shape[0], -1, x.shape[-1])
    scores = torch.baddbmm(folded.bias, by_frame, folded.key)
    scores = scores.unflatten(-1, (self.heads, self.slots_wide))
    weight = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
    return torch.bmm(weight.flatten(2), folded.value).reshape(x.shape)


class Block(WanTransformerBlock):
  """A layer of Wan's that also hears."""

  def __init__(self, width: int, ffn: int, heads: int, head: int, windows):
    super().__init__(width, ffn, heads, cross_attn_norm=True, eps=EPSILON)
    self.speech_norm = RMSNorm(width)
    self.speech_attention = SpeechWindowAttention(width, heads, head, **windows)

  def forward(
    self,
    x: torch.Tensor,
    text: torch.Tensor,
    shared: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor],
    speech: Folded,
  ) -> torch.Tensor:
    """Return an array like x, [B T D]; turn: the rotations of RoPE."""
    dtype = x.dtype
    table = (self.scale_shift_table + shared.float()).chunk(6, dim=1)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = table
    y = (self.norm1(x.float()) * (1 + scale) + shift).to(dtype)
    x = (x.float() + self.attn1(y, None, None, turn) * gate).to(dtype)
    x = x + self.attn2(self.norm2(x.float()).to(dtype), text, None, None)
    x = x + self.speech_attention(self.speech_norm(x), speech)
    y = (self.norm3(x.float()) * (1 + mlp_scale) + mlp_shift).to(dtype)
    return (x.float() + self.ffn(y).float() * mlp_gate).to(dtype)


class MochaWanTransformer3DModel(WanTransformer3DModel):
  """Predicts the velocity x1 - eps of noised latents; see the module.

  Wan itself predicts eps - x1 from the level of noise 1 - t in thousandths.

  ratio, causal: video frames per latent frame, and whether the first stands
  alone; max_frames: latent frames of the longest clip. text_*: name and
  feature width of the text encoder. speech_*: features per video frame,
  neighbours glued on either side, hidden width of the projector, and the
  windows of `SpeechWindowAttention`.
  """

  _no_split_modules = ["Block"]  # noqa: RUF012
  _repeated_blocks = ["Block"]  # noqa: RUF012
  # What stays in float32 when a type is asked for. diffusers keeps it with the
  # help of accelerate, and refuses to load what names it without.
  islands = (
    *("rope", "time_embedder", "time_proj", "scale_shift_table", "proj_out"),
    *("norm1", "norm2", "norm3", "speech_norm", "key_norm"),
  )
  _keep_in_fp32_modules = [*islands] if is_accelerate_available() else None

  @register_to_config
  def __init__(
    self,
    layers: int,
    ffn: int,
    heads: int,
    head: int,
    channels: int,
    patch: int,
    ratio: int,
    causal: bool,
    max_frames: int,
    text_name: str,
    text_features: int,
    speech_features: int,
    speech_context: int,
    speech_hidden: int,
    speech_edge: str,
    speech_order: str,
  ):
    super().__init__(
      patch_size=(1, patch, patch),
      num_attention_heads=heads,
      attention_head_dim=head,
      in_channels=channels,
      out_channels=channels,
      text_dim=text_features,
      ffn_dim=ffn,
      num_layers=0,
      eps=EPSILON,
    )
    width = heads * head
    self.speech = SpeechProjector(
      speech_features, speech_context, speech_hidden, width
    )
    windows = dict(
      ratio=ratio, causal=causal, edge=speech_edge, order=speech_order
    )
    self.blocks = nn.ModuleList(
      Block(width, ffn, heads, head, windows) for _ in range(layers)
    )

  @property
  def max_video_frames(self) -> int:
    """Video frames of the longest clip that the model allows."""
    causal = self.config.causal
    return self.config.ratio * (self.config.max_frames - causal) + causal

  def encode(
    self,
    speech: torch.Tensor,
    text: dict[str, torch.Tensor],
    text_mask: dict[str, torch.Tensor],
  ) -> Encoded:
    """Do once per clip what does not depend on the noised latents.

    speech: one vector per video frame, [B S E], zeros where there is none.
    text, text_mask: features [B L E] and their mask [B L], by encoder. All L
    tokens are attended to, those of padding as features of zero.
    """
    dtype = self.patch_embedding.weight.dtype
    name = self.config.text_name
    if [*text] != [name]:
      raise ValueError(f"text of {sorted(text)}, but the model reads {name}")
    features = text[name].to(dtype) * text_mask[name][:, :, None]
    projected = self.speech(speech.to(dtype))
    return Encoded(
      self.condition_embedder.text_embedder(features),
      [block.speech_attention.fold(projected) for block in self.blocks],
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
    rows, columns = (n // self.config.patch for n in size)
    embedder, patch = self.condition_embedder, self.config.patch
    turn = self.rope(hidden_states)
    x = self.patch_embedding(hidden_states.to(encoded.text.dtype))
    x = x.flatten(2).transpose(1, 2).contiguous()
    noise = embedder.timesteps_proj(1000.0 * (1 - timestep.float()))
    time = embedder.time_embedder(noise)
    shared = embedder.time_proj(functional.silu(time)).unflatten(1, (6, -1))
    for block, speech in zip(self.blocks, encoded.speech, strict=True):
      x = block(x, encoded.text, shared, turn, speech)
    shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, dim=1)
    x = self.proj_out(self.norm_out(x.float()) * (1 + scale) + shift)
    out = x.unflatten(1, (frames, rows, columns))
    out = -out.unflatten(4, (patch, patch, -1)).permute(0, 6, 1, 2, 4, 3, 5)
    out = out.flatten(5, 6).flatten(3, 4)
    return Transformer2DModelOutput(out) if return_dict else (out,)
