import jax
import jax.numpy as jnp

from mocha_jax import sharding
from mocha_jax.compilation import hlo, memory
from mocha_jax.models.movie_gen import MovieGen
from mocha_jax.training import optim, state
from mocha_jax.training.checkpoint import abstract_state
from tests import hlo_texts
from tests.small_model import CONFIG
from tests.training.test_training import OPTIM


def test_kinds_add_up_to_the_peak():
  program = hlo.parse(hlo_texts.LAYERS)
  network = state.Network(lambda rngs: MovieGen(CONFIG, rngs=rngs))
  optimizer = optim.make_optimizer(OPTIM, network.letters)
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=1, fsdp=2, tensor=2, context=1, slice=1),
    jax.devices()[:4],
  )
  held = abstract_state(network, optimizer, mesh)
  batch = jax.ShapeDtypeStruct(
    (8, 3), jnp.float32, sharding=sharding.batch_sharding(mesh)
  )
  kinds = memory.by_kind(program, held, batch, 10**9)
  assert sum(kinds.values()) == 10**9
  # One stack of four layers, each 1,024 x 256 bfloat16.
  assert kinds["activations"] == 4 * 1024 * 256 * 2
  assert kinds["gradients"] == kinds["host"] == 0
  assert kinds["batch"] == 4 * 3 * 4  # Half of the clips on a device.
  assert kinds["moving average"] == kinds["parameters"]
  whole = sum(4 * x.size for x in jax.tree.leaves(network.shapes))
  assert whole / 4 < kinds["parameters"] < whole


def test_stack_on_the_host_is_no_memory_of_the_device():
  text = hlo_texts.LAYERS.replace(
    "%loop = (s32[], bf16[4,1024,256]{2,1,0}",
    "%loop = (s32[], bf16[4,1024,256]{2,1,0:S(5)}",
  )
  nothing = state.TrainState(None, None, None, None, None)
  kinds = memory.by_kind(hlo.parse(text), nothing, None, 10**9)
  assert kinds["host"] == 4 * 1024 * 256 * 2
  assert kinds["activations"] == 0
