"""What steps and clips cost here: ours, the exported PyTorch, Wan without us.

  python -m mocha_jax.export.bench --size wan_1_3b
  python -m mocha_jax.export.bench --size toy --programs jax torch --compile off

Programs, all with random weights. A sampling step of one velocity, not guided:

  jax          our backbone, as the sampler runs it
  jax_silent   the same without its speech attention
  torch        the exported transformer, speech folded once
  torch_wan    diffusers' own WanTransformer3DModel, without speech

and decoding a whole clip:

  vae          our Wan VAE, a latent frame at a time, to bytes on the device
  torch_vae    diffusers' own AutoencoderKLWan, the same way, to floats

wan_1_3b is Wan2.1 1.3B in bfloat16 at 33 latents of 480 x 832 pixels, which are
129 frames; toy is as small as it runs. What is printed: seconds, medians of
several calls, and how long the first took, which compiles. Unless --compile is
off, torch.compile makes what PyTorch runs, on CPUs by a C++ compiler.
"""
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

import argparse
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Collection
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from mocha_jax.batch import Condition
from mocha_jax.codecs import wan_vae
from mocha_jax.export import diffusers_folder
from mocha_jax.models import make_config, make_model
from mocha_jax.models.backbone import project
from mocha_jax.network import Network

_REPEATS = 5
_TEXT = 512  # Tokens.


@dataclasses.dataclass(frozen=True)
class Size:
  """A backbone, the base width of a VAE, and latents [f h w] of a clip."""

  layers: int
  ffn: int
  heads: int
  head: int
  features: int
  text: int
  vae: int
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
    *(30, 8960, 12, 128, 9216, 4096, 96),
    latents=(33, 60, 104),
    dtype="bfloat16",
  ),
  "toy": Size(*(2, 128, 4, 32, 24, 16, 8), latents=(3, 4, 6), dtype="float32"),
}


def main(argv: list[str] | None = None) -> None:
  """Print a row per program."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  parser.add_argument("--size", choices=SIZES, required=True)
  parser.add_argument(
    "--programs", nargs="+", choices=PROGRAMS, default=[*PROGRAMS]
  )
  parser.add_argument("--compile", choices=["on", "off"], default="on")
  asked = parser.parse_args(argv)
  for name in asked.programs:
    program = PROGRAMS[name]
    call, where = program.make(SIZES[asked.size], asked.compile == "on")
    first, median = _seconds(call)
    print(
      f"{asked.size:10} {name:10} {median:10.4f} s/{program.what}  {where}; "
      f"first call {first:.1f} s",
      flush=True,
    )


def _seconds(call: Callable[[], Any]) -> tuple[float, float]:
  """Return the time of a first call that waits for its end, and of others."""
  taken = []
  for _ in range(1 + _REPEATS):
    start = time.perf_counter()
    call()
    taken.append(time.perf_counter() - start)
  return taken[0], statistics.median(taken[1:])


def _network(size: Size) -> Network:
  config = make_config(size.model)
  return Network(lambda rngs: make_model(config, rngs=rngs))


def _jax_step(size: Size, *, speech: bool):
  network = _network(size)
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
  return lambda: step(params, x).block_until_ready(), _jax_device()


def _vae(size: Size):
  config = wan_vae.WanVAEConfig(
    name="wan_vae",
    weights="",
    width=size.vae,
    time=4,
    space=8,
    channels=16,
    causal=True,
    dtype=cast(Any, size.dtype),
    chunk=1,
    tile=0,
  )
  network = wan_vae.WanVAE(config, pathlib.Path()).network
  matrices = lambda x: x.astype(size.dtype) if x.ndim > 1 else x
  params = jax.jit(lambda key: jax.tree.map(matrices, network.init(key)))(
    jax.random.key(0)
  )
  decode = jax.jit(wan_vae.decoder(network, config.cuts))
  x = jnp.zeros((1, *size.latents, 16))
  return lambda: decode(params, x).block_until_ready(), _jax_device()


def _jax_device() -> str:
  return f"{jax.devices()[0].device_kind}, compiled by XLA"


class _Silence(nnx.Module):
  """Stands where speech attention was, and says nothing."""

  def __call__(self, x, speech, frames):
    return jnp.zeros_like(x)


def _torch(size: Size, compiled: bool):
  import torch

  from mocha_jax.export.pytorch import transformer_wan

  backbone = diffusers_folder.make_backbone(size.model, _network(size).shapes)
  made = transformer_wan.MochaWanTransformer3DModel(**backbone.config)
  device, dtype = _torch_device(size)
  made = _cast(made, dtype, made.islands).to(device).eval()
  with torch.no_grad():
    encoded = made.encode(
      torch.ones(1, size.video_frames, size.features, device=device),
      {"umt5": torch.ones(1, _TEXT, size.text, device=device)},
      {"umt5": torch.ones(1, _TEXT, dtype=torch.bool, device=device)},
    )
  run = torch.compile(made) if compiled else made
  x, t = _torch_inputs(size, device)
  step = lambda: x + 0.02 * run(x, t, encoded, return_dict=False)[0]
  return _waiting(step), _torch_says(x, compiled)


def _torch_wan(size: Size, compiled: bool):
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
  kept = made._keep_in_fp32_modules or ()
  made = _cast(made, dtype, kept).to(device).eval()
  text = torch.ones(1, _TEXT, size.text, device=device, dtype=dtype)
  run = torch.compile(made) if compiled else made
  x, t = _torch_inputs(size, device)
  step = lambda: (
    x + 0.02 * run(x.to(dtype), 1000 * t, text, return_dict=False)[0]
  )
  return _waiting(step), _torch_says(x, compiled)


def _torch_vae(size: Size, compiled: bool):
  import diffusers
  import torch

  device, dtype = _torch_device(size)
  made: Any = diffusers.AutoencoderKLWan(base_dim=size.vae, z_dim=16)
  made = made.to(device, dtype).eval()
  if compiled:  # It goes through a clip by calling this.
    made.decoder = torch.compile(made.decoder)
  x = _torch_inputs(size, device)[0].to(dtype)
  decode = lambda: made.decode(x, return_dict=False)[0]
  return _waiting(decode), _torch_says(x, compiled)


def _cast(made: Any, dtype: Any, kept: Collection[str]) -> Any:
  """Bring parameters to a type as loading does, but for what is kept."""
  for name, parameter in made.named_parameters():
    if not any(part in name.split(".") for part in kept):
      parameter.data = parameter.data.to(dtype)
  return made


def _torch_device(size: Size):
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  return device, getattr(torch, size.dtype)


def _torch_inputs(size: Size, device: str):
  import torch

  x = torch.zeros(1, 16, *size.latents, device=device)
  return x, torch.full((1,), 0.5, device=device)


def _torch_says(x: Any, compiled: bool) -> str:
  import torch

  device = torch.cuda.get_device_name() if x.is_cuda else "cpu"
  return f"{device}, {'compiled' if compiled else 'not compiled'}"


def _waiting(call: Callable[[], Any]) -> Callable[[], Any]:
  """Return a call that waits for its end."""
  import torch

  def waits():
    with torch.no_grad():
      out = call()
    if out.is_cuda:
      torch.cuda.synchronize()
    return out

  return waits


@dataclasses.dataclass(frozen=True)
class Program:
  """make(size, compiled) returns a call and what it runs on.

  compiled: by torch.compile; XLA does in any case.

  what: is done by a call.
  """

  make: Callable[[Size, bool], tuple[Callable[[], Any], str]]
  what: str


PROGRAMS = {
  "jax": Program(lambda size, _: _jax_step(size, speech=True), "step"),
  "jax_silent": Program(lambda size, _: _jax_step(size, speech=False), "step"),
  "torch": Program(_torch, "step"),
  "torch_wan": Program(_torch_wan, "step"),
  "vae": Program(lambda size, _: _vae(size), "clip"),
  "torch_vae": Program(_torch_vae, "clip"),
}


if __name__ == "__main__":
  main()
