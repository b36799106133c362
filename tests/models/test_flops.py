import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mocha_jax import config as experiments
from mocha_jax.batch import Batch, Condition
from mocha_jax.models.flops import batch_flops, flops, training
from mocha_jax.models.movie_gen import ModelConfig, MovieGen
from mocha_jax.sections import section
from tests.small_model import CONFIG

XLA = dataclasses.replace(CONFIG.speech, implementation="xla")
SMALL = dataclasses.replace(CONFIG, speech=XLA)
GLOBAL = dataclasses.replace(XLA, attention="global", order="none")
VARIANTS = {
  "slots": SMALL,
  "no slots": dataclasses.replace(
    SMALL, speech=dataclasses.replace(XLA, order="none")
  ),
  "global": dataclasses.replace(SMALL, speech=GLOBAL),
  "causal": dataclasses.replace(SMALL, causal=True),
  "frozen": dataclasses.replace(
    SMALL, frozen_text=dict(a=5, b=7), small_text=None, noise_skip=False
  ),
}


def make_batch(config: ModelConfig, clips=3, frames=3, rows=2, columns=3):
  """The shapes of a batch; 8 text tokens of each encoder."""
  speech = config.ratio * (frames - config.causal) + config.causal
  shape: Any = lambda *sizes: jax.ShapeDtypeStruct((clips, *sizes), jnp.float32)
  ids: Any = jax.ShapeDtypeStruct((clips, 8), jnp.int32)
  text = {name: shape(8, width) for name, width in config.frozen_text.items()}
  if config.small_text is not None:
    text["small_text"] = ids
  mask: Any = jax.ShapeDtypeStruct((clips, 8), jnp.bool_)
  patch = config.patch
  return Batch(
    shape(frames, patch * rows, patch * columns, config.channels),
    Condition(
      shape(speech, config.speech.features), text, {name: mask for name in text}
    ),
  )


def traced(config: ModelConfig, batch: Batch):
  """Return a function of parameters and inputs, and their shapes."""
  graph, params = nnx.split(
    nnx.eval_shape(lambda: MovieGen(config, rngs=nnx.Rngs(0)))
  )
  t = jax.ShapeDtypeStruct(batch.latents.shape[:1], jnp.float32)

  def forward(params, x_t, t, condition):
    return nnx.merge(graph, params)(x_t, t, condition)

  return forward, (params, batch.latents, t, batch.condition)


def products(jaxpr) -> int:
  """Return the FLOPs of all matrix products in a traced function."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      inner = np.prod([left[axis] for axis in contracted], dtype=int)
      total += 2 * equation.outvars[0].aval.size * int(inner)
    times = equation.params.get("length", 1)
    values = list(equation.params.values())
    if equation.primitive.name == "cond":  # By platform, the default last.
      values = [equation.params["branches"][-1]]
    for value in values:
      inside = getattr(value, "jaxpr", value)
      if hasattr(inside, "eqns"):
        total += times * products(inside)
  return total


@pytest.mark.parametrize("name", VARIANTS)
def test_formulas_are_the_matrix_products_of_the_model(name):
  config = VARIANTS[name]
  batch = make_batch(config)
  forward, inputs = traced(config, batch)
  want = products(jax.make_jaxpr(forward)(*inputs).jaxpr)
  assert sum(batch_flops(config, batch).values()) == want


def test_xla_counts_the_same_and_a_little_for_the_rest():
  # One layer: XLA counts the body of a loop once.
  config = dataclasses.replace(
    SMALL, layers=1, width=256, ffn=1024, heads=2, head=128
  )
  batch = make_batch(config, frames=4, rows=2, columns=3)
  forward, inputs = traced(config, batch)
  cost: Any = jax.jit(forward).lower(*inputs).cost_analysis()
  ours = sum(batch_flops(config, batch).values())
  assert ours < cost["flops"] < 1.05 * ours


def test_parts_of_the_paper_are_as_the_method_has_them():
  given = experiments.load("mocha_30b").to_dict()["model"]
  config = section(ModelConfig, given, "model")
  text = dict(ul2=256, byt5=256, metaclip=256)
  parts = flops(config, 1, 32, 45, 45, text)
  # 32 x 2,025 tokens: 0.50 TFLOP per layer of collapsed speech attention.
  assert parts["speech_attention"] / 48 == pytest.approx(0.50e12, rel=0.02)
  # 56 to 60 % of all are self-attention's scores.
  share = parts["self_attention_scores"] / sum(parts.values())
  assert 0.56 < share < 0.60


def test_all_but_the_slots_grows_with_the_clips():
  config = VARIANTS["no slots"]
  one, two = (batch_flops(config, make_batch(config, clips=n)) for n in (1, 2))
  assert {part: 2 * n for part, n in one.items()} == two


def test_frozen_matrices_have_one_product_less_in_the_backward_pass():
  parts = ("patches", "self_attention", "self_attention_scores", "mlp")
  forward = {str(part): 1.0 for part in parts}
  trained = {
    "out": {"kernel": 0},
    "blocks": {
      "self_attention": {"lora": {"query": {"up": 0}}},
      "mlp": {"x": 0},
    },
  }
  assert training(forward, trained) == dict(
    patches=3.0, self_attention=2.0, self_attention_scores=3.0, mlp=3.0
  )
