"""What all backbones share: their sizes, tokens of a grid, a loop over layers.

A backbone is a file beside `movie_gen`, with a config that adds to
`BackboneConfig` and a module that is called as `model(x_t, t, condition)`.
"""

import abc
import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mocha_jax import sharding
from mocha_jax.batch import Condition
from mocha_jax.kernels.speech_window.geometry import Geometry
from mocha_jax.models import lora, remat
from mocha_jax.models.attention import PROJECTIONS, Implementation
from mocha_jax.models.embed import TextEmbedding, TrainedTextConfig
from mocha_jax.models.lora import LoraConfig
from mocha_jax.models.speech import SpeechConfig, SpeechProjector
from mocha_jax.sections import nearest, positive

LORA_TARGETS = tuple(
  f"{part}.{projection}"
  for part in ("self_attention", "text_attention")
  for projection in PROJECTIONS
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig(abc.ABC):
  """Sizes of the network.

  layers, width (D), ffn (F), heads (N), head (H): of the transformer.
  channels: of a latent; patch: height and width in latents of a token.
  ratio, causal: the codec's video frames per latent frame, and its grid.
  max_frames: of latents in a clip, at most.
  speech, frozen_text (feature width by encoder), small_text: conditions.
  dtype: of the computation; parameters are float32.
  attention: its implementation, "auto" to choose by platform (`attention`).
  remat: what a layer keeps for the backward pass (`remat`).
  lora: low-rank adapters of attention's projections (`lora`).
  """

  layers: int
  width: int
  ffn: int
  heads: int
  head: int
  channels: int
  patch: int
  ratio: int
  causal: bool
  max_frames: int
  speech: SpeechConfig
  frozen_text: Mapping[str, int]
  small_text: TrainedTextConfig | None
  dtype: Literal["float32", "bfloat16"]
  attention: Literal["auto", "xla", "splash", "cudnn"]
  remat: str
  # Runs from before there was a choice lack it.
  lora: LoraConfig = lora.NONE

  def __post_init__(self):
    positive(self, "layers", "width", "ffn", "heads", "head", "channels")
    positive(self, "patch", "max_frames")
    values = self.patch**2 * self.channels
    if values >= self.width:
      raise ValueError(
        f"a token holds patch^2 x channels = {values} values, which must be "
        f"fewer than width={self.width}: the prediction carries the noise too"
      )
    if self.head % 2:
      raise ValueError(f"head={self.head}: must be even, RoPE turns pairs")
    if not self.frozen_text and self.small_text is None:
      raise ValueError("one of frozen_text and small_text must be given")
    remat.check(self.remat)
    for target in self.lora.targets:
      if target not in LORA_TARGETS:
        raise ValueError(
          f"lora.targets has {target!r}, which no layer has"
          f"{nearest(target, LORA_TARGETS)}"
        )

  @property
  def geometry(self) -> Geometry:
    """Which speech each latent frame attends to."""
    return Geometry(
      ratio=self.ratio,
      causal=self.causal,
      edge=self.speech.edge,
      order=self.speech.order,
    )

  @property
  def attention_implementation(self) -> Implementation | None:
    """The implementation of attention, None to choose by platform."""
    return None if self.attention == "auto" else self.attention

  @property
  def max_video_frames(self) -> int:
    """Video frames of the longest clip that the model allows."""
    return self.ratio * (self.max_frames - self.causal) + self.causal

  @property
  @abc.abstractmethod
  def mlp_matrices(self) -> int:
    """Matrices of D x F in the feed-forward part of a layer."""

  @property
  @abc.abstractmethod
  def modulation_weights(self) -> int:
    """Numbers in the matrices that a clip's time goes through."""

  @abc.abstractmethod
  def frozen_text_weights(self, name: str) -> int:
    """Return the numbers in the matrices that bring features to D."""


@typing.no_type_check  # A tree map may put anything in the fields.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projected:
  """A condition brought to the model's width: what depends on the clip alone.

  `project` makes it, and a backbone's `velocity(x_t, t, projected)` takes it.
  """

  speech: Float[Array, "B S D"]
  text: Float[Array, "B L D"]
  text_mask: Bool[Array, "B L"]


@typing.runtime_checkable
class Backbone(Protocol):
  """What every backbone has; `model(x_t, t, condition)` does both in turn."""

  config: Any
  text: TextEmbedding
  speech: SpeechProjector

  def velocity(
    self,
    x_t: Float[Array, "B f h w c"],
    t: Float[Array, "B"],
    projected: Projected,
  ) -> Float[Array, "B f h w c"]:
    """Return v, float32."""
    ...


def project(model: Backbone, condition: Condition) -> Projected:
  """Bring a condition to the model's width, in the type of its computation.

  Raises:
    ValueError: the condition lacks an encoder that the model has.
  """
  dtype = jnp.dtype(model.config.dtype)
  with jax.named_scope("text_projection"):
    text, mask = model.text(condition)
    text = sharding.constrain(text.astype(dtype), "B L D")
  with jax.named_scope("speech_projection"):
    speech = model.speech(condition.speech.astype(dtype))
    speech = sharding.constrain(speech, "B S D")
  return Projected(speech=speech, text=text, text_mask=mask)


def check_clip(
  config: BackboneConfig, x_t: Float[Array, "B f h w c"], video_frames: int
) -> int:
  """Return the latent frames of clips, if the model takes them.

  video_frames: as many as there are vectors of speech.

  Raises:
    ValueError: they do not divide into patches, are too long, or the speech is
      not of their length.
  """
  frames, height, width = x_t.shape[1:4]
  if height % config.patch or width % config.patch:
    raise ValueError(
      f"{height} x {width} latents: must be multiples of patch={config.patch}"
    )
  if frames > config.max_frames:
    raise ValueError(
      f"{frames} latent frames: the model allows max_frames={config.max_frames}"
    )
  expected = config.geometry.frames(video_frames)
  if frames != expected:
    raise ValueError(
      f"{frames} latent frames, but speech of {video_frames} video frames goes "
      f"with {expected}"
    )
  return frames


def to_tokens(
  x: Float[Array, "B f h w c"], patch: int
) -> Float[Array, "B T C"]:
  """Make a token of every patch, its values in the order of p p c."""
  b, f, h, w, c = x.shape
  x = x.reshape(b, f, h // patch, patch, w // patch, patch, c)
  x = x.transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f * (h // patch) * (w // patch), patch * patch * c)


def to_grid(
  x: Float[Array, "B T C"], shape: tuple[Any, ...], patch: int
) -> Float[Array, "B f h w c"]:
  """Undo `to_tokens`; shape: [B f h w c], where B may be a symbol."""
  b, f, h, w, c = shape
  x = x.reshape(b, f, h // patch, w // patch, patch, patch, c)
  return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(shape)


def stack(
  block: Callable[..., nnx.Module], config: BackboneConfig, *, rngs: nnx.Rngs
) -> nnx.Module:
  """Return all layers of a config as one block, axis 0 of all it has."""

  @nnx.split_rngs(splits=config.layers)
  @nnx.scan(in_axes=(0,), out_axes=0)  # By layers: vmap draws all at once.
  def blocks(rngs):
    return block(config, rngs=rngs)

  return blocks(rngs)


def run_layers(
  blocks: nnx.Module, policy: str, x: Float[Array, "B T D"], *given
) -> Float[Array, "B T D"]:
  """Return what stacked blocks make of x, each called as block(x, *given).

  policy: what of a layer is kept for the backward pass (`remat`).
  """
  graph, layers = nnx.split(blocks)

  def layer(x, state):
    return nnx.merge(graph, state)(x, *given), None

  return jax.lax.scan(remat.rematerialised(layer, policy), x, layers)[0]
