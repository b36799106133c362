"""The real TPU compiler takes the kernel, and puts nothing around it."""

import dataclasses
import re
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from mocha_jax import sharding, tpu_compiler
from mocha_jax.batch import Batch, Condition
from mocha_jax.diffusion import flow
from mocha_jax.kernels.speech_window import api, shapes
from mocha_jax.kernels.speech_window.measure import forms
from mocha_jax.models.movie_gen import MovieGen
from mocha_jax.training import optim, state, step
from mocha_jax.training.checkpoint import abstract_state
from tests.small_model import CONFIG
from tests.speech_inputs import shape
from tests.training.test_training import OPTIM, STEP

pytest.importorskip("libtpu", reason="it needs the extra `tpu`, or `dev`")

# Once for each worker of the tests.
tpu_compiler.prepare_environment()
PODS = {"v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2", "tpu7x": "2x2x1"}

# 45 x 45 tokens a frame in bfloat16, as the paper's, and less of the rest.
PAPER = shape(
  batch=1, frames=4, tokens=2025, width=512, heads=48, head=128, itemsize=2
)
SHAPES = {
  "paper": PAPER,
  "12 heads": dataclasses.replace(PAPER, heads=12),
  "6 heads": dataclasses.replace(PAPER, heads=6, ratio=8),
  "toy": shapes.TOY,
}


@pytest.fixture(scope="module", autouse=True)
def uncached():
  """Programs for TPUs cannot be read back where there is none."""

  def enable(whether: bool):
    jax.config.update("jax_enable_compilation_cache", whether)
    compilation_cache.reset_cache()

  enable(False)
  yield
  enable(True)


def mesh_of(target: str, devices: int = 1, **axes: int):
  from jax.experimental import topologies

  pod = topologies.get_topology_desc(
    platform="tpu", topology_name=f"{target}:{PODS[target]}"
  )
  config = sharding.MeshConfig(**dict.fromkeys(sharding.AXES, 1) | axes)
  return sharding.make_mesh(config, pod.devices[:devices])


def compile_kernel(mesh, of: shapes.Shape, passes: str) -> Any:
  """Compile the kernel for arrays that lie whole on the devices."""
  function, sizes = forms.build(forms.FORMS["kernel"], of, passes)
  with jax.set_mesh(mesh):
    jitted = jax.jit(function, in_shardings=sharding.replicated(mesh))
    return jitted.lower(*sizes).compile()


def kernels(compiled) -> list[str]:
  """Return the names of a program's kernels of speech, sorted."""
  calls = re.findall(r"%(\S+) = .*tpu_custom_call", compiled.as_text())
  names = (re.search(r"speech_window_(forward|backward)", x) for x in calls)
  return sorted(name[1] for name in names if name)


@pytest.mark.parametrize("target", PODS)
def test_nothing_is_moved_around_the_kernel(target):
  """Though 2,025 is odd, so that frames start in the midst of tiles."""
  compiled = compile_kernel(mesh_of(target), PAPER, "both")
  assert kernels(compiled) == ["backward", "forward"]
  made = set(re.findall(r" = \S+ ([a-z][a-z-]*)\(", compiled.as_text()))
  made |= set(re.findall(r" = \(.*?\) ([a-z][a-z-]*)\(", compiled.as_text()))
  assert "custom-call" in made
  # The last two fetch into fast memory, before it is needed, what will be read.
  assert made <= {
    *("parameter", "constant", "bitcast", "tuple", "get-tuple-element"),
    *("custom-call", "copy-start", "copy-done"),
  }


@pytest.mark.parametrize(
  ("target", "name"),
  [("v5e", "toy"), ("v5p", "12 heads"), ("v6e", "toy"), ("tpu7x", "6 heads")],
)
def test_any_number_of_heads_compiles(target, name):
  compiled = compile_kernel(mesh_of(target), SHAPES[name], "both")
  assert kernels(compiled) == ["backward", "forward"]


def test_heads_of_the_largest_model_have_room():
  """The kernel as the paper's size needs it, but for the number of frames."""
  of = dataclasses.replace(shapes.MOCHA_30B, frames=1)
  compiled = compile_kernel(mesh_of("v5p"), of, "both")
  assert kernels(compiled) == ["backward", "forward"]


def test_kernel_is_chosen_for_the_devices_that_are_compiled_for():
  """And adds up heads once, whoever compiles: this machine has no TPU."""
  mesh = mesh_of("v5p", devices=4, context=2, tensor=2)
  of = dataclasses.replace(PAPER, width=128)

  def attend(x, key, value):
    _, mask = of.geometry.windows(of.frames, of.speech)
    folded = api.Folded(key, value, jax.numpy.asarray(mask))
    return api.windowed_attention(x, folded, implementation=None)

  size = (of.batch, of.frames)
  arrays = [
    jax.ShapeDtypeStruct(
      (*size, *dims),
      forms.dtype(of),
      sharding=sharding.replicated(mesh),
    )
    for dims in ((of.tokens, of.width), *[(of.slots, of.heads, of.width)] * 2)
  ]
  with jax.set_mesh(mesh):
    compiled: Any = jax.jit(attend).lower(*arrays).compile()
  assert kernels(compiled) == ["forward"]
  assert len(re.findall(r" all-reduce(?:-start)?\(", compiled.as_text())) == 1


@pytest.mark.parametrize(
  ("target", "remat"),
  [(target, "none") for target in PODS] + [("v5p", "full")],
)
def test_kernel_runs_in_a_sharded_train_step(target, remat):
  model = dataclasses.replace(CONFIG, width=128, remat=remat)
  mesh = mesh_of(target, devices=4, context=2, tensor=2)
  network = state.Network(lambda rngs: MovieGen(model, rngs=rngs))
  optimizer = optim.make_optimizer(OPTIM, network.letters)
  trained = step.make_train_step(
    network, optimizer, flow.FlowConfig(1.0), STEP, mesh
  )
  where = sharding.batch_sharding(mesh)

  def array(*dims: int, dtype: str = "float32") -> Any:
    return jax.ShapeDtypeStruct(dims, dtype, sharding=where)

  batch = Batch(
    array(1, 4, 4, 6, 5),
    Condition(
      array(1, 16, 6),
      {"small_text": array(1, 8, dtype="int32")},
      {"small_text": array(1, 8, dtype="bool")},
    ),
  )
  compiled = trained.lower(
    abstract_state(network, optimizer, mesh), batch
  ).compile()
  # The layers are a loop each way: with remat, p is made again.
  again = ["forward"] * (remat == "full")
  assert kernels(compiled) == ["backward", "forward", *again]
