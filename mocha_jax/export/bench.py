"""What a sampling step costs here: ours, the exported PyTorch, Wan without us.

  python -m mocha_jax.export.bench --size wan_1_3b
  python -m mocha_jax.export.bench --size toy --programs jax torch

Programs, all with random weights and one velocity a step, not guided:

  jax          our backbone, as the sampler runs it
  jax_silent   the same without its speech attention
  torch        the exported transformer, speech folded once; compiled
  torch_wan    diffusers' own WanTransformer3DModel, without speech; compiled

wan_1_3b is Wan2.1 1.3B in bfloat16 at 33 latents of 480 x 832 pixels; toy is as
small as it runs. What is printed: seconds per step, medians of several.
"""
# pyright: reportMissingImports=false

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mocha_jax.batch import Condition
from mocha_jax.export import diffusers_folder
from mocha_jax.models import make_config, make_model
from mocha_jax.models.backbone import project
from mocha_jax.network import Network

_REPEATS = 5
_TEXT = 512  # Tokens.


@dataclasses.dataclass(frozen=True)
class Size:
  """A backbone, and latents [f h w] of a clip."""

  layers: int
  ffn: int
  heads: int
  head: int
  features: int
  text: int
  latents: tuple[int, int, int]
  dtype: str

  @property
  def model(self) -> dict[str, Any]:
    """Section `model` of a config."""
    return dict(
      name="wan",
      layers=self.layers,
      width=self.heads * self.head,
      ffn=self.ffn,
      heads=self.heads,
      head=self.head,
      channels=16,
      patch=2,
      ratio=4,
      causal=True,
      max_frames=self.latents[0],
      speech=dict(
        features=self.features,
        context=5,
        hidden=512,
        attention="window",
        order="slots",
        edge="clip",
        position="none",
        implementation="auto",
      ),
      frozen_text=dict(umt5=self.text),
      small_text=None,
      dtype=self.dtype,
      attention="auto",
      remat="none",
      lora=dict(rank=0, alpha=1.0, targets=()),
    )

  @property
  def video_frames(self) -> int:
    """Video frames of the clip."""
    return 4 * (self.latents[0] - 1) + 1


SIZES = {
  "wan_1_3b": Size(
    *(30, 8960, 12, 128, 9216, 4096), latents=(33, 60, 104), dtype="bfloat16"
  ),
  "toy": Size(*(2, 128, 4, 32, 24, 16), latents=(3, 4, 6), dtype="float32"),
}


def main(argv: list[str] | None = None) -> None:
  """Print a row per program."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument("--size", choices=SIZES, required=True)
  parser.add_argument(
    "--programs", nargs="+", choices=PROGRAMS, default=[*PROGRAMS]
  )
  asked = parser.parse_args(argv)
  for name in asked.programs:
    step, where = PROGRAMS[name](SIZES[asked.size])
    print(f"{asked.size:10} {name:10} {_seconds(step):10.4f} s/step  {where}")


def _seconds(step: Callable[[], Any]) -> float:
  """Return the median time of a step that waits for its end."""
  step()  # Compiles.
  taken = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    step()
    taken.append(time.perf_counter() - start)
  return statistics.median(taken)


def _jax(size: Size, *, speech: bool = True):
  config = make_config(size.model)
  network = Network(lambda rngs: make_model(config, rngs=rngs))
  params = jax.jit(network.init)(jax.random.key(0))
  shape = (1, *size.latents, 16)
  condition = Condition(
    speech=jnp.ones((1, size.video_frames, size.features)),
    text={"umt5": jnp.ones((1, _TEXT, size.text))},
    text_mask={"umt5": jnp.ones((1, _TEXT), bool)},
  )
  projected = jax.jit(
    lambda params: project(network.bind(params), condition)  # pyright: ignore
  )(params)

  @jax.jit
  def step(params, x):
    model: Any = network.bind(params)
    if not speech:
      model.blocks.speech_attention = _Silence()
    return x + 0.02 * model.velocity(x, jnp.full(1, 0.5), projected)

  x = jnp.zeros(shape)
  device = jax.devices()[0].device_kind
  return lambda: step(params, x).block_until_ready(), device


class _Silence:
  """Stands where speech attention was, and says nothing."""

  def __call__(self, x, speech, frames):
    return jnp.zeros_like(x)


def _torch(size: Size):
  import torch

  from mocha_jax.export.pytorch import transformer_wan

  backbone = diffusers_folder.make_backbone(size.model, {})
  made = transformer_wan.MochaWanTransformer3DModel(**backbone.config)
  device, dtype = _torch_device(size)
  for name, parameter in made.named_parameters():
    if not any(part in name.split(".") for part in made.islands):
      parameter.data = parameter.data.to(dtype)
  made = made.to(device).eval()
  with torch.no_grad():
    encoded = made.encode(
      torch.ones(1, size.video_frames, size.features, device=device),
      {"umt5": torch.ones(1, _TEXT, size.text, device=device)},
      {"umt5": torch.ones(1, _TEXT, dtype=torch.bool, device=device)},
    )
  run = torch.compile(made)
  x, t = _torch_inputs(size, device)
  return _stepping(x, lambda: run(x, t, encoded, return_dict=False)[0])


def _torch_wan(size: Size):
  import diffusers
  import torch

  device, dtype = _torch_device(size)
  made = diffusers.WanTransformer3DModel(
    num_attention_heads=size.heads,
    attention_head_dim=size.head,
    text_dim=size.text,
    ffn_dim=size.ffn,
    num_layers=size.layers,
  )
  made = made.to(device, dtype).eval()
  text = torch.ones(1, _TEXT, size.text, device=device, dtype=dtype)
  run = torch.compile(made)
  x, t = _torch_inputs(size, device)
  call = lambda: run(x.to(dtype), 1000 * t, text, return_dict=False)[0]
  return _stepping(x, call)


def _torch_device(size: Size):
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  return device, getattr(torch, size.dtype)


def _torch_inputs(size: Size, device: str):
  import torch

  x = torch.zeros(1, 16, *size.latents, device=device)
  return x, torch.full((1,), 0.5, device=device)


def _stepping(x: Any, velocity: Callable[[], Any]):
  """Return a step that waits for its end, and what it runs on."""
  import torch

  def step():
    with torch.no_grad():
      out = x + 0.02 * velocity()
    if x.is_cuda:
      torch.cuda.synchronize()
    return out

  name = torch.cuda.get_device_name() if x.is_cuda else "cpu"
  return step, name


PROGRAMS: dict[str, Callable[[Size], Any]] = {
  "jax": _jax,
  "jax_silent": lambda size: _jax(size, speech=False),
  "torch": _torch,
  "torch_wan": _torch_wan,
}


if __name__ == "__main__":
  main()
