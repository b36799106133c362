import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu

from mocha_jax import config as experiments
from mocha_jax.models import attention
from mocha_jax.models.flops import flops
from mocha_jax.models.movie_gen import Block, ModelConfig
from mocha_jax.models.speech import SpeechProjector, SpeechWindowAttention
from mocha_jax.sections import section
from tests import numerics
from tests.small_model import CONFIG
from tests.speech_inputs import draw

FRAMES, PLACES = 3, 5
SIZES = dict(D=CONFIG.width, N=CONFIG.heads, H=CONFIG.head)


class SpeechPath(nnx.Module):
  """All that speech goes through: the projector, then a layer's attention."""

  def __init__(self, config: ModelConfig):
    rngs = nnx.Rngs(0)
    self.projector = SpeechProjector(config.speech, config.width, rngs=rngs)
    self.attention = SpeechWindowAttention(
      config.speech, config.geometry, SIZES, rngs=rngs
    )

  def __call__(self, x, speech):
    return self.attention(x, self.projector(speech), FRAMES)


def make_path(*, dtype: Any = jnp.float32, **changes):
  """The path as a function of its parameters, none at zero, and these."""
  speech = dataclasses.replace(CONFIG.speech, **changes)
  config = dataclasses.replace(CONFIG, speech=speech)
  graph, params = nnx.split(SpeechPath(config), nnx.Param)
  leaves, tree = jax.tree.flatten(params)
  leaves = [
    y.astype(dtype) + 0.3 * draw(seed, *y.shape, dtype=dtype)
    for seed, y in enumerate(leaves)
  ]
  apply = lambda params, x, speech: nnx.merge(graph, params)(x, speech)
  return apply, jax.tree.unflatten(tree, leaves)


def make_inputs(dtype: Any = jnp.float32):
  """Two clips' video tokens [B T D] and speech features [B S E]."""
  tokens = CONFIG.ratio * FRAMES
  return (
    draw(20, 2, FRAMES * PLACES, CONFIG.width, dtype=dtype),
    draw(21, 2, tokens, CONFIG.speech.features, dtype=dtype),
  )


def test_text_only_clip_gets_one_vector_for_all_its_tokens():
  apply, params = make_path(order="none")
  x, speech = make_inputs()
  got = apply(params, x, 0 * speech)
  assert float(jnp.abs(got).max()) > 0.1
  want = jnp.broadcast_to(got[:1, :1], got.shape)
  numerics.assert_close(got, want, jnp.float32, reduced=CONFIG.width)
  # And nothing pulls on the video.
  norm = lambda speech: jnp.linalg.norm(
    jax.grad(lambda x: jnp.sum(apply(params, x, speech) ** 2))(x)
  )
  assert float(norm(0 * speech)) < 1e-5 * float(norm(speech))


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("order", ["none", "slots", "rope"])
def test_gradients_are_those_that_differences_give(order, silent):
  """Parameter by parameter, each along one direction, in float64."""
  with jax.enable_x64(True):
    apply, params = make_path(dtype="float64", order=order)
    x, speech = make_inputs("float64")
    speech = speech * (not silent)

    @jax.jit
    def loss(given):
      params, x = given
      return jnp.sum(jnp.sin(apply(params, x, speech)))

    leaves, tree = jax.tree.flatten((params, x))
    slopes = jax.tree.leaves(jax.grad(loss)((params, x)))
    step = 1e-5  # Its square is well below float32's rounding.
    for i, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):
      way = draw(30 + i, *leaf.shape, dtype="float64")
      way /= jnp.linalg.norm(way)
      after, before = (
        loss(tree.unflatten([*leaves[:i], leaf + h * way, *leaves[i + 1 :]]))
        for h in (step, -step)
      )
      want = (after - before) / (2 * step)
      # Beside the whole slope, since that along the way may be small.
      beside = jnp.maximum(jnp.linalg.norm(slope), 1)
      got = [jnp.vdot(slope, way), beside]
      numerics.assert_close(
        jnp.stack(got), jnp.stack([want, beside]), "float32"
      )


def test_text_only_clip_teaches_projector_and_slots():
  apply, params = make_path(order="slots")
  x, speech = make_inputs()

  @jax.grad
  def gradient(params):
    return jnp.sum(jnp.sin(apply(params, x, 0 * speech)))

  got = nnx.to_pure_dict(gradient(params))
  first = got["projector"]["first"]
  np.testing.assert_array_equal(first.pop("kernel"), 0)  # Its input is zero.
  for path, y in jax.tree.leaves_with_path(got):
    assert float(jnp.abs(y).max()) > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("order", ["none", "slots", "rope"])
def test_kernel_in_the_model_equals_xla(order):
  x, speech = make_inputs()

  def run(name, params):
    apply, _ = make_path(order=order, implementation=name)
    loss = lambda params, x: jnp.sum(jnp.sin(apply(params, x, speech)))
    return jax.value_and_grad(jax.checkpoint(loss), argnums=(0, 1))(params, x)

  run = jax.jit(run, static_argnums=0)
  _, params = make_path(order=order)
  with pltpu.force_tpu_interpret_mode(True):  # pyright: ignore
    got = run("pallas_tpu", params)
  numerics.assert_close(got, run("xla", params), jnp.float32, reduced=2048)


def test_automatic_is_the_kernel_on_tpus():
  apply, params = make_path(implementation="auto")
  traced = jax.jit(apply).trace(params, *make_inputs())
  for platform, kernels in dict(tpu=1, cpu=0).items():
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("tpu_custom_call") == kernels


PAPER = dict(frames=32, rows=61, columns=33)  # 976 x 528 pixels: 64,416 tokens.
MOST = 0.0035  # Of the model's FLOPs, for all that speech goes through.


def paper_config() -> ModelConfig:
  given = experiments.load("mocha_30b").to_dict()["model"]
  return section(ModelConfig, given, "model")


def test_speech_is_a_small_share_of_the_paper_s_model():
  text = dict(ul2=256, byt5=256, metaclip=256)
  parts = flops(paper_config(), clips=1, text=text, **PAPER)
  speech = parts["speech_attention"] + parts["speech_projection"]
  assert 0 < speech / sum(parts.values()) <= MOST


def test_speech_is_a_small_share_of_a_layer_as_xla_counts(monkeypatch):
  """Both passes, without rematerialisation; the projector's 1/48 aside."""
  # Scores at once: XLA counts the body of a loop over their rows once.
  monkeypatch.setattr(attention, "_SCORES", 2**62)
  config = paper_config()
  config = dataclasses.replace(
    config, speech=dataclasses.replace(config.speech, implementation="xla")
  )
  shape: Any = lambda *sizes: jax.ShapeDtypeStruct((1, *sizes), jnp.bfloat16)
  width, tokens = config.width, 32 * 61 * 33
  x, speech = shape(tokens, width), shape(125, width)
  position = jax.ShapeDtypeStruct((tokens, width), jnp.bfloat16)
  text = shape(768, width), jax.ShapeDtypeStruct((1, 768), jnp.bool_)
  shared = jax.ShapeDtypeStruct((1, 2, 3, width), jnp.float32)

  def count(graph, params, *inputs) -> float:
    def both(params, cotangent, *inputs):
      apply = lambda params, *inputs: nnx.merge(graph, params)(*inputs, 32)
      out, pull = jax.vjp(apply, params, *inputs)
      return out, pull(cotangent)

    cost: Any = jax.jit(both).lower(params, x, *inputs).cost_analysis()
    return cost["flops"]

  block = nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0)))
  layer = count(*nnx.split(block), x, position, shared, text, speech)
  heard = count(*nnx.split(block.speech_attention), x, speech)
  assert 0 < heard / layer <= MOST
