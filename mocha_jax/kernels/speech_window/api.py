"""The door to speech-video window attention: fold the speech, then attend.

  folded = fold_speech(speech, weights, geometry, frames)
  out = windowed_attention(x, folded, implementation=None)

is the collapsed form (see `ref`). Which tokens stand in which window and in
what order is settled while folding; attention knows nothing of it.
`projected_window_attention` is the published form, for checkpoints with a norm
on queries or biases, which cannot be folded.

An implementation is "xla", "pallas_tpu", or None for the kernel where the
program is compiled for TPUs and XLA elsewhere. One that is asked for runs or is
an error; an interpreted kernel runs only if asked for. A program exported for
TPUs and others at once must say "xla". Under a mesh each device attends for its
own clips, frames and heads, and the sums over heads are added up once.
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mocha_jax import sharding
from mocha_jax.kernels.platform import is_interpreted, only_on_tpu
from mocha_jax.kernels.speech_window import ref
from mocha_jax.kernels.speech_window.geometry import Geometry
from mocha_jax.kernels.speech_window.ref import Weights as Weights

Implementation = Literal["xla", "pallas_tpu"]
IMPLEMENTATIONS: tuple[Implementation, ...] = typing.get_args(Implementation)

NO_TPU = (
  "implementation='pallas_tpu' is a kernel for TPUs, but the program is "
  "compiled for another platform: take 'xla', or None to choose by platform "
  "(to try the kernel without a TPU, trace under "
  "jax.experimental.pallas.tpu.force_tpu_interpret_mode())"
)


@typing.no_type_check  # A tree map may put anything in the fields.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Folded:
  """The speech of every window with the projections folded in.

  key, value: K' and V' of `ref`; mask: which slots hold a token.
  """

  key: Float[Array, "B f R N D"]
  value: Float[Array, "B f R N D"]
  mask: Bool[Array, "f R"]


def fold_speech(
  speech: Float[Array, "B S E"],
  weights: Weights,
  geometry: Geometry,
  frames: int,
) -> Folded:
  """Fold the projections into the speech of each of so many latent frames.

  Raises:
    ValueError: the weights have a norm on queries or a bias, which cannot be
      folded, or slots and the geometry's order do not go together.
  """
  unfoldable = (
    "query_norm",
    "query_bias",
    "key_bias",
    "value_bias",
    "out_bias",
  )
  given = [name for name in unfoldable if getattr(weights, name) is not None]
  if given:
    raise ValueError(
      f"weights with {', '.join(given)} cannot be folded into the speech; use "
      "projected_window_attention"
    )
  key, value = ref.fold(speech, weights, geometry, frames)
  _, mask = geometry.windows(frames, speech.shape[1])
  return Folded(
    sharding.constrain(key, "B f R N D"),
    sharding.constrain(value, "B f R N D"),
    jnp.asarray(mask),
  )


def windowed_attention(
  x: Float[Array, "B f hw D"],
  folded: Folded,
  *,
  implementation: Implementation | None,
) -> Float[Array, "B f hw D"]:
  """Attend each video token to the folded speech of its frame.

  A token whose window holds no speech token gets 0.

  Raises:
    ValueError: x has another number of frames than the folded speech, or there
      is no such implementation.
    NotImplementedError: "pallas_tpu", once compiled for another platform.
  """
  if x.shape[1] != folded.mask.shape[0]:
    raise ValueError(
      f"x has {x.shape[1]} latent frames, the speech was folded for "
      f"{folded.mask.shape[0]}"
    )
  attend = sharding.shard_mapped(
    _attend_by(implementation),
    ("B f hw D", "B f R N D", "B f R N D", "f R"),
    "B f hw D",
  )
  return attend(x, folded.key, folded.value, folded.mask)


def projected_window_attention(
  x: Float[Array, "B f hw D"],
  speech: Float[Array, "B S E"],
  weights: Weights,
  geometry: Geometry,
  *,
  implementation: Implementation | None,
) -> Float[Array, "B f hw D"]:
  """Attend each video token to the speech of its frame, as published.

  Some 20 times the operations of the collapsed form; for weights that cannot be
  folded.

  Raises:
    ValueError: there is no such implementation.
    NotImplementedError: "pallas_tpu": only the collapsed form has a kernel.
  """
  _check(implementation)
  if implementation == "pallas_tpu":
    raise NotImplementedError(
      "the published form has no kernel: take implementation='xla' or None, or "
      "fold_speech and windowed_attention"
    )
  frames = x.shape[1]
  key, value = ref.project_speech(speech, weights, geometry, frames)
  _, mask = geometry.windows(frames, speech.shape[1])
  attend = sharding.shard_mapped(
    ref.attend_heads,
    ("B f hw N H", "B f R N H", "B f R N H", "N H D", "f _ R"),
    "B f hw D",
  )
  query = ref.project_video(x, weights)
  y = attend(query, key, value, weights.out, jnp.asarray(mask)[:, None])
  return ref.add_bias(y, weights)


def _check(implementation: str | None) -> None:
  if implementation is not None and implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f"{implementation=}: must be one of {', '.join(IMPLEMENTATIONS)}, or None"
    )


def _attend_by(implementation: Implementation | None) -> Callable:
  """Return what one device runs."""
  _check(implementation)
  if implementation == "xla" or (implementation is None and is_interpreted()):
    return ref.windowed_attention
  if implementation is None:
    return _by_platform
  return _kernel if is_interpreted() else _kernel_on_tpu


def _kernel(x: Array, key: Array, value: Array, mask: Array) -> Array:
  # Imported where it is traced, since Pallas is heavy.
  from mocha_jax.kernels.speech_window import pallas_tpu

  return pallas_tpu.windowed_attention(x, key, value, mask)


def _kernel_on_tpu(x: Array, key: Array, value: Array, mask: Array) -> Array:
  return _kernel(x, key, value, only_on_tpu(mask, NO_TPU))


def _by_platform(*args: Array) -> Array:
  # What either keeps for its backward pass, both carry: XLA's form keeps
  # nothing but what it was given.
  return jax.lax.platform_dependent(
    *args,
    tpu=_kernel,
    default=jax.checkpoint(ref.windowed_attention, prevent_cse=False),
  )
