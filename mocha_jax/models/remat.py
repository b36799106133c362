"""What a layer keeps for the backward pass, and what it computes again.

"none" keeps everything and "full" nothing but the layer's input. In between,
what is kept is named: "attention+out+down" keeps three of the names below, and
"host:" before a name keeps it in the host's memory. Of the forward pass of
mocha_30b at 65,536 tokens, whose layer reads and writes tokens of D numbers,

  name       keeps, per token            spares, of the layer's FLOPs
  attention  D   self-attention's mix    59.7 %
  down       D   the MLP's output         7.5 %
  out        D   self-attention's output  2.8 %
  qkv        3D  its projections          8.4 %
  gate, up   F   the MLP's two halves     7.5 % each, F = 2.7 D
  text       3D  text attention's parts   6.3 %
  speech     D   speech attention's output  0.3 %

With splash and cuDNN "attention" comes with the softmax's normaliser, so that
the backward pass does not attend again; XLA's form computes its scores again.
"dots" keeps them all and "offload" all, all but the first on the host.
"""

import difflib
from collections.abc import Callable
from typing import Any

import jax

ATTENTION, OUT, QKV = "attention", "out", "qkv"
TEXT, SPEECH = "text", "speech"
GATE, UP, DOWN = "gate", "up", "down"
NAMES = (ATTENTION, DOWN, OUT, QKV, GATE, UP, TEXT, SPEECH)
HOST = "host:"
NAMED = {
  "dots": NAMES,
  "offload": (ATTENTION, *(HOST + name for name in NAMES[1:])),
}

# What cuDNN's attention gives its backward pass; jax names the primitive only.
_CUDNN = "dot_product_attention_fwd_wrapper"


def check(remat: str) -> None:
  """Refuse a policy with a name that there is not.

  Raises:
    ValueError: naming it, and the nearest that there is.
  """
  if remat in ("none", "full"):
    return
  known = ("none", "full", *NAMED, *NAMES)
  for name in _split(remat):
    bare = name.removeprefix(HOST)
    if bare not in NAMES:
      near = difflib.get_close_matches(bare, known, n=1)
      raise ValueError(
        f'remat="{remat}": "{bare}" must be none, full, {", ".join(NAMED)}, or '
        f"names out of {', '.join(NAMES)} joined by +"
        + "".join(f'; nearest is "{n}"' for n in near)
      )


def rematerialised(layer: Callable, remat: str) -> Callable:
  """Return the layer so that its backward pass has what the policy keeps."""
  check(remat)
  if remat == "none":
    return layer
  return jax.checkpoint(layer, policy=_policy(remat), prevent_cse=False)


def _split(remat: str) -> tuple[str, ...]:
  return NAMED.get(remat) or tuple(remat.split("+"))


def _policy(remat: str) -> Callable[..., Any]:
  policies = jax.checkpoint_policies
  if remat == "full":
    return policies.nothing_saveable
  names = _split(remat)
  here = {name for name in names if not name.startswith(HOST)}
  there = {name.removeprefix(HOST) for name in names} - here
  by_name = policies.save_and_offload_only_these_names(
    names_which_can_be_saved=sorted(here),
    names_which_can_be_offloaded=sorted(there),
    offload_src="device",
    offload_dst="pinned_host",
  )
  if ATTENTION not in here:
    return by_name
  return lambda primitive, *given, **params: (
    primitive.name == _CUDNN or by_name(primitive, *given, **params)
  )
