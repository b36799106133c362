"""What the backward pass computes again, counted in the programs."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval

from mocha_jax.models import remat
from mocha_jax.models.movie_gen import MovieGen
from mocha_jax.network import Network
from tests import cudnn, numerics
from tests.models.test_movie_gen import inputs
from tests.small_model import CONFIG

XLA = dataclasses.replace(CONFIG.speech, implementation="xla")
SMALL = dataclasses.replace(CONFIG, speech=XLA, attention="xla")


def equations(jaxpr):
  """Yield all equations, those of inner programs too."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jaxprs_in_params(equation.params):
      yield from equations(inner)


def program(**changes):
  """The gradient of a model of one kind of layer, as traced, all of it used."""
  config = dataclasses.replace(SMALL, **changes)
  network = Network(lambda rngs: MovieGen(config, rngs=rngs))
  x_t, t, condition = inputs(config)

  def loss(params):
    return jnp.sum(network.bind(params)(x_t, t, condition) ** 2)

  traced = jax.make_jaxpr(jax.grad(loss))(network.shapes).jaxpr
  return partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))[0]


def products(**changes) -> int:
  """How many matrix products a gradient holds; a scan's body counts once."""
  names = (e.primitive.name for e in equations(program(**changes)))
  return collections.Counter(names)["dot_general"]


def forward_kernels(policy: str) -> int:
  """How often splash attention runs forward in a layer, of video and text."""
  with pltpu.force_tpu_interpret_mode(True):  # pyright: ignore
    found = list(equations(program(attention="splash", remat=policy)))
  names = [e.params["name"] for e in found if e.primitive.name == "pallas_call"]
  return sum("_fwd" in name for name in names)


@pytest.mark.parametrize(
  ("policy", "times"),
  {"full": 4, "attention": 3, "text": 3, "attention+text": 2}.items(),
)
def test_attention_that_is_kept_does_not_run_again(policy, times):
  assert forward_kernels(policy) == times


@pytest.mark.parametrize(
  ("policy", "times"),
  # Video's and text's go by one name.
  {"full": 4, "attention": 2, "attention+host:down": 2, "offload": 2}.items(),
)
def test_attention_of_cudnn_that_is_kept_does_not_run_again(policy, times):
  with cudnn.traced_anywhere():
    found = equations(
      program(attention="cudnn", dtype="bfloat16", remat=policy)
    )
    names = [e.primitive.name for e in found]
  assert names.count("dot_product_attention_fwd_wrapper") == times


@pytest.mark.parametrize(
  ("name", "spared"),
  # Of XLA's attention the mix of values is spared; scores never are.
  dict(attention=1, out=1, qkv=3, gate=1, up=1, down=1, text=5).items(),
)
def test_products_that_are_kept_are_not_computed_again(name, spared):
  assert products(remat="full") - products(remat=name) == spared


def test_dots_computes_again_what_is_cheap_alone():
  again = products(remat="dots") - products(remat="none")
  # Two kinds of scores, and the folding of speech and its attention.
  assert again < products(remat="full") - products(remat="dots")


def test_offload_moves_to_the_host_and_back():
  moves = [
    str(e.params)
    for e in equations(program(remat="offload"))
    if e.primitive.name == "device_put"
  ]
  there = [m for m in moves if "Host" in m or "pinned_host" in m]
  assert len(there) >= len(remat.NAMES) - 1


@pytest.mark.parametrize("policy", ["attention+down", "dots", "full"])
def test_no_policy_changes_a_gradient(policy):
  config = dataclasses.replace(SMALL, dtype="float32")
  network = Network(lambda rngs: MovieGen(config, rngs=rngs))
  keys = iter(jax.random.split(jax.random.key(0), 1000))
  params = jax.tree.map(
    lambda x: 0.3 * jax.random.normal(next(keys), x.shape), network.shapes
  )
  x_t, t, condition = inputs(config)

  def gradient(policy):
    changed = dataclasses.replace(config, remat=policy)
    network = Network(lambda rngs: MovieGen(changed, rngs=rngs))

    def loss(params):
      return jnp.mean(network.bind(params)(x_t, t, condition) ** 2)

    return jax.jit(jax.grad(loss))(params)

  numerics.assert_close(gradient(policy), gradient("none"), jnp.float32, 2048)


@pytest.mark.parametrize(
  ("policy", "message"),
  [
    (
      "attn",
      r'remat="attn": "attn" must be none, full.*nearest is "attention"',
    ),
    ("attention+donw", r'"donw".*nearest is "down"'),
    ("host:", r'"" must be'),
  ],
)
def test_unknown_name_is_refused(policy, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SMALL, remat=policy)
