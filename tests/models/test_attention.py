import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from mocha_jax import sharding
from mocha_jax.models.attention import attend, by_rows
from tests import cudnn, numerics

VIDEO, TEXT = ("T", "T"), ("T", "L")


def mesh(context: int = 1, tensor: int = 1) -> Mesh:
  """A mesh of eight devices."""
  data = 8 // (context * tensor)
  return sharding.make_mesh(sharding.MeshConfig(1, data, tensor, context, 1))


def arrays(heads: int, tokens: int, keys: int):
  key = jax.random.split(jax.random.key(0), 3)
  query = jax.random.normal(key[0], (4, tokens, heads, 8))
  return query, *(jax.random.normal(k, (4, keys, heads, 8)) for k in key[1:])


def gradients(attention, given):
  """The output and the gradients of the sum of its squares, in one program."""

  def both(*args):
    out, pull = jax.vjp(attention, *args)
    return out, pull(2 * out)

  return jax.jit(both).lower(*given).compile()


SHAPES = {
  "whole": (dict(context=1, tensor=2), 4, None),
  "all-to-all": (dict(context=2), 4, "all-to-all"),
  "all-to-all by tensor": (dict(context=2, tensor=2), 4, "all-to-all"),
  "gathered": (dict(context=4), 6, "all-gather"),
  "gathered by tensor": (dict(context=4, tensor=2), 2, "all-gather"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_video_attends_on_any_mesh_as_on_one_device(name):
  shape, heads, collective = SHAPES[name]
  given = arrays(heads, 16, 16)
  attention = functools.partial(
    attend, implementation="xla", tokens=VIDEO, name="attention"
  )
  want = gradients(attention, given)(*given)
  on_mesh = lambda *args: attention(
    *(sharding.constrain(x, "B T N H") for x in args)
  )
  with jax.set_mesh(mesh(**shape)):
    compiled = gradients(on_mesh, given)
    got = compiled(*given)
  numerics.assert_close(got, want, jnp.float32, 64)
  # Nothing else moves: each device has its own clips, tokens and heads.
  text = compiled.as_text() or ""
  moves = {c for c in ("all-to-all", "all-gather") if f" {c}(" in text}
  assert moves == ({collective} if collective else set())


@pytest.mark.parametrize("shape", [dict(context=2, tensor=2), dict(context=4)])
def test_every_part_of_a_clip_attends_to_the_whole_text(shape):
  given = arrays(4, 16, 6)
  mask = jnp.arange(6) < jnp.array([[6], [1], [3], [5]])
  attention = lambda q, k, v: attend(
    q, k, v, mask, implementation="xla", tokens=TEXT, name="text"
  )
  want = gradients(attention, given)(*given)
  with jax.set_mesh(mesh(**shape)):
    got = gradients(attention, given)(*given)
  numerics.assert_close(got, want, jnp.float32, 64)


def test_splash_attends_on_a_mesh_as_xla_does():
  given = arrays(2, 16, 16)
  attention = lambda implementation: functools.partial(
    attend, implementation=implementation, tokens=VIDEO, name="attention"
  )
  want = gradients(attention("xla"), given)(*given)
  with (
    jax.set_mesh(mesh(context=2)),
    pltpu.force_tpu_interpret_mode(True),  # pyright: ignore
  ):
    got = gradients(attention("splash"), given)(*given)
  numerics.assert_close(got, want, jnp.float32, 64)


def lowered(platform: str, implementation=None) -> str:
  """A gradient, lowered for a platform that need not be here."""
  given = arrays(2, 128, 128)
  loss = lambda *args: jnp.sum(
    attend(*args, implementation=implementation, tokens=VIDEO, name="a")
  )
  traced = jax.jit(jax.grad(loss)).trace(*given)
  return traced.lower(lowering_platforms=(platform,)).as_text()


def test_kernel_is_chosen_by_the_platform_compiled_for():
  assert "splash_mha_dkv" in lowered("tpu")
  assert "splash" not in lowered("cpu")
  assert "splash" not in lowered("tpu", "xla")


@pytest.mark.parametrize(
  ("implementation", "home"), [("splash", "TPU"), ("cudnn", "GPU")]
)
def test_asked_for_implementation_is_refused_on_other_meshes(
  implementation, home
):
  given = arrays(2, 16, 16)
  with (
    jax.set_mesh(mesh()),
    pytest.raises(NotImplementedError, match=f"{implementation}.*{home}.*cpu"),
  ):
    attend(*given, implementation=implementation, tokens=VIDEO, name="a")


def cudnn_call(monkeypatch):
  """cuDNN's entry, computed by XLA; returns the shapes it was called with."""
  seen = []
  by_xla = jax.nn.dot_product_attention

  def called(query, key, value, *, mask, implementation):
    assert implementation == "cudnn"
    seen.append((query.shape[1], key.shape[1]))
    return by_xla(query, key, value, mask=mask)

  monkeypatch.setattr(jax.nn, "dot_product_attention", called)
  return seen


@pytest.mark.parametrize(("tokens", "keys"), [(15, 7), (16, 7), (15, 8)])
def test_cudnn_gets_even_numbers_of_tokens_with_a_mask(
  tokens, keys, monkeypatch
):
  query, key, value = arrays(2, tokens, keys)
  mask = jnp.arange(keys)[None] < jnp.array([[keys], [3], [1], [2]])
  run = functools.partial(
    attend, query, key, value, mask, tokens=TEXT, name="a"
  )
  want = run(implementation="xla")
  seen = cudnn_call(monkeypatch)
  out = run(implementation="cudnn")
  assert seen == [(-(-tokens // 2) * 2, -(-keys // 2) * 2)]
  numerics.assert_close(out, want, jnp.float32, keys)


def test_training_traces_cudnn_at_odd_sizes():
  given = [x.astype(jnp.bfloat16) for x in arrays(2, 15, 7)]
  mask = jnp.ones((4, 7), bool)

  def loss(query, key, value):
    return jnp.sum(
      attend(
        *(query, key, value, mask),
        implementation="cudnn",
        tokens=TEXT,
        name="a",
      )
    )

  with cudnn.traced_anywhere():
    program = str(jax.make_jaxpr(jax.grad(loss))(*given))
  assert "dot_product_attention_bwd" in program


def test_asked_for_kernel_never_falls_back_without_a_mesh():
  with pytest.raises(ValueError, match="interpret"):
    lowered("cpu", "splash")


def test_softmax_is_in_float32():
  given = [x.astype(jnp.bfloat16) for x in arrays(2, 512, 512)]
  out = attend(*given, implementation="xla", tokens=VIDEO, name="a")
  want = attend(
    *(x.astype(jnp.float32) for x in given),
    implementation="xla",
    tokens=VIDEO,
    name="a",
  )
  assert out.dtype == jnp.bfloat16
  numerics.assert_close(np.asarray(out, np.float32), want, jnp.bfloat16)


@pytest.mark.parametrize("rows", [1, 5, 16, 99])
def test_queries_attend_alike_a_few_at_a_time(rows):
  given = arrays(2, 16, 6)
  whole = jax.nn.dot_product_attention
  in_parts = lambda q, k, v: by_rows(lambda q: whole(q, k, v), q, rows=rows)
  want = gradients(whole, given)(*given)
  got = gradients(in_parts, given)(*given)
  numerics.assert_close(got, want, jnp.float32, 64)


def test_scores_of_a_long_clip_never_lie_side_by_side():
  tokens, heads = 16_384, 2  # 2.1 GB of scores.
  x = jax.ShapeDtypeStruct((1, tokens, heads, 8), jnp.float32)
  attention = lambda q, k, v: attend(
    q, k, v, implementation="xla", tokens=VIDEO, name="attention"
  )
  memory = gradients(attention, (x, x, x)).memory_analysis()
  assert memory is not None
  assert memory.temp_size_in_bytes < tokens**2 * heads * 4 / 4
