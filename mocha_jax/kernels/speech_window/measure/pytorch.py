"""The published form as PyTorch users have it: project, attend, project back.

Attention is FlexAttention with the window as a block mask, or scaled dot
product attention with the window as a mask of all video x speech tokens.
"""
# pyright: reportMissingImports=false

import functools
import math
from collections.abc import Callable
from typing import Any

from mocha_jax.kernels.speech_window.ref import EPSILON
from mocha_jax.kernels.speech_window.shapes import Shape


def prepare(of: Shape, passes: str) -> dict[str, Callable[[], Any]]:
  """Return what runs each form once, to its end."""
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  dtype = {2: torch.bfloat16, 4: torch.float32}[of.itemsize]
  torch.manual_seed(0)
  draw = lambda *size: (
    torch.randn(size, device=device, dtype=dtype) / math.sqrt(size[-1])
  )
  inner = of.heads * of.head
  inputs = [
    draw(of.batch, of.frames * of.tokens, of.width),
    draw(of.batch, of.speech, of.width),
    *(draw(of.width, inner) for _ in range(3)),
    draw(inner, of.width),
  ]
  for array in inputs:
    array.requires_grad_(passes == "both")
  cotangent = torch.randn_like(inputs[0])
  forms = {"torch_sdpa": _masked(of, device)}
  if device == "cuda" or passes == "forward":  # CPUs have no gradient of it.
    forms["torch_flex"] = _flex(of, device)

  def run(attend):
    out = _project_and_attend(of, attend, *inputs)
    if passes == "both":
      torch.autograd.grad(out, inputs, cotangent)
    if device == "cuda":
      torch.cuda.synchronize()

  return {name: functools.partial(run, forms[name]) for name in forms}


def _project_and_attend(of: Shape, attend, x, speech, query, key, value, out):
  from torch.nn import functional

  heads = lambda y: y.unflatten(-1, (of.heads, of.head)).transpose(1, 2)
  keys = functional.rms_norm(
    heads(speech @ key).float(), (of.head,), eps=EPSILON
  ).to(x.dtype)
  y = attend(heads(x @ query), keys, heads(speech @ value))
  return y.transpose(1, 2).flatten(2) @ out


def _in_window(of: Shape, token, speech):
  """Say whether a video token attends to a speech token."""
  lead = of.ratio if of.causal else 1
  first = of.ratio * (token // of.tokens) - lead
  return (speech >= first) & (speech < first + of.slots)


def _masked(of: Shape, device: str) -> Callable:
  import torch
  from torch.nn import functional

  token = torch.arange(of.frames * of.tokens, device=device)[:, None]
  mask = _in_window(of, token, torch.arange(of.speech, device=device))
  return functools.partial(
    functional.scaled_dot_product_attention, attn_mask=mask
  )


def _flex(of: Shape, device: str) -> Callable:
  import torch
  from torch.nn.attention import flex_attention

  mask = flex_attention.create_block_mask(
    lambda batch, head, token, speech: _in_window(of, token, speech),
    B=None,
    H=None,
    Q_LEN=of.frames * of.tokens,
    KV_LEN=of.speech,
    device=device,
  )
  return functools.partial(
    torch.compile(flex_attention.flex_attention), block_mask=mask
  )
