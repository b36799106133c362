"""Which meshes and remat policies are worth compiling for a config.

Every mesh that multiplies up to a pod and divides the clip, the heads and the
batch is tried with every policy below by a rough sum:

  memory  parameters and, of the trained, average, moments and gradients over
          the devices that split them; what a policy keeps of a clip's part; a
          layer's work
  time    FLOPs with what is computed again; a layer's parameters gathered
          twice and its gradients scattered once per part of the batch;
          activations that context and tensor exchange

The best by that sum are compiled, and the compiled programs decide.
"""

import dataclasses
from collections.abc import Iterator

from mocha_jax.compilation.topology import Pod
from mocha_jax.models import flops, remat
from mocha_jax.models.backbone import BackboneConfig

POLICIES = (
  "full",
  "attention",
  "attention+down",
  "attention+down+out",
  "attention+down+out+qkv",
  "attention+down+out+qkv+text",
  "dots",
  "offload",
)
_BF16, _FP32 = 2, 4
_ROOM = 0.9  # Of the memory; the sum is rough.


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A choice, and the rough seconds and bytes per device of a step."""

  fsdp: int
  context: int
  tensor: int
  accumulate: int
  remat: str
  seconds: float
  bytes: float

  def overrides(self, slices: int) -> list[str]:
    """Return the flags that make it."""
    return [
      f"--config.mesh.slice={slices}",
      "--config.mesh.data=1",
      f"--config.mesh.fsdp={self.fsdp}",
      f"--config.mesh.context={self.context}",
      f"--config.mesh.tensor={self.tensor}",
      f"--config.step.accumulate={self.accumulate}",
      f"--config.model.remat={self.remat}",
    ]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What the rough sum needs to know; forward: FLOPs per clip, by part.

  trained: of the parameters.
  """

  model: BackboneConfig
  parameters: int
  trained: int
  forward: dict[str, float]
  tokens: int
  frames: int
  clips: int


def candidates(sizes: Sizes, pod: Pod, devices: int) -> list[Candidate]:
  """List what may fit, best first.

  devices: of the pod.

  Raises:
    ValueError: nothing divides, or nothing may fit.
  """
  tried = [
    _judge(sizes, pod, devices, axes, policy)
    for axes in _meshes(sizes, devices // pod.slices, pod.slices)
    for policy in POLICIES
  ]
  if not tried:
    raise ValueError(
      f"no mesh of {devices} devices divides {sizes.clips} clips of "
      f"{sizes.frames} frames and {sizes.model.heads} heads"
    )
  limit = _ROOM * pod.generation.hbm * pod.chips / devices
  fitting = [c for c in tried if c.bytes <= limit]
  if not fitting:
    least = min(c.bytes for c in tried) / 2**30
    raise ValueError(
      f"nothing may fit {pod}: at least {least:.0f} GiB per device"
    )
  return sorted(fitting, key=lambda c: c.seconds)


def _meshes(
  sizes: Sizes, devices: int, slices: int
) -> Iterator[tuple[int, int, int]]:
  """Yield fsdp, context and tensor that multiply up and divide."""
  for context in range(1, min(devices, 16) + 1):
    for tensor in (1, 2, 4, 8):
      fsdp, rest = divmod(devices, context * tensor)
      if not (
        rest
        or sizes.frames % context
        or sizes.model.heads % (tensor * context)
        or sizes.clips % (slices * fsdp)
      ):
        yield fsdp, context, tensor


def _judge(
  sizes: Sizes, pod: Pod, devices: int, axes: tuple[int, int, int], policy: str
) -> Candidate:
  """Make the rough sum for one choice."""
  fsdp, context, tensor = axes
  accumulate = sizes.clips // (pod.slices * fsdp)
  chip, per_chip = pod.generation, devices // pod.chips
  layers, width = sizes.model.layers, sizes.model.width
  tokens = sizes.tokens // context
  here = [n for n in _names(policy) if not n.startswith(remat.HOST)]
  kept = sum(_kept(sizes.model, name) for name in here)
  state = _FP32 * sizes.parameters
  state += _FP32 * (4 + (accumulate > 1)) * sizes.trained
  layer = sizes.parameters / layers
  work = 4 * width + 3 * sizes.model.ffn / tensor
  size = state / (fsdp * context * tensor)
  size += layers * tokens * (width + kept / tensor) * _BF16
  size += tokens * work * _BF16 + 2 * layer * _BF16 / tensor

  again = sum(sizes.forward.values()) - sum(
    _spared(sizes.forward, name.removeprefix(remat.HOST))
    for name in _names(policy)
  )
  total = flops.TRAINING * sum(sizes.forward.values()) + again
  links = 2 * len(pod.shape) * chip.link / per_chip
  gathered = accumulate * 3 * sizes.parameters * _BF16 / tensor
  exchanged = accumulate * layers * tokens * width * _BF16
  exchanged *= 8 * (context > 1) / tensor + 8 * (tensor > 1)
  peak = chip.flops / per_chip * chip.matmul.share
  seconds = total * sizes.clips / devices / peak
  seconds += (gathered + exchanged) / links
  return Candidate(fsdp, context, tensor, accumulate, policy, seconds, size)


def _names(policy: str) -> tuple[str, ...]:
  if policy == "full":
    return ()
  return remat.NAMED.get(policy) or tuple(policy.split("+"))


def _kept(model: BackboneConfig, name: str) -> float:
  """Return how many numbers a policy's name keeps per token and layer."""
  wide = {remat.QKV: 3, remat.TEXT: 3}
  if name in (remat.GATE, remat.UP):
    return model.ffn
  return wide.get(name, 1) * model.width


def _spared(forward: dict[str, float], name: str) -> float:
  """Return the FLOPs of a clip's forward pass that a name spares."""
  part, share = {
    remat.ATTENTION: ("self_attention_scores", 1),
    remat.OUT: ("self_attention", 1 / 4),
    remat.QKV: ("self_attention", 3 / 4),
    remat.TEXT: ("text_attention", 1),
    remat.SPEECH: ("speech_attention", 1),
    remat.GATE: ("mlp", 1 / 3),
    remat.UP: ("mlp", 1 / 3),
    remat.DOWN: ("mlp", 1 / 3),
  }[name]
  return share * forward[part]
