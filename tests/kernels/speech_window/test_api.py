"""What every implementation must do; a new one joins `implementation`."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from mocha_jax import sharding
from mocha_jax.kernels.speech_window import api, ref, shapes
from tests import numerics
from tests.speech_inputs import draw, geometry, make_inputs, make_weights, shape

ORDERS = ("none", "slots", "rope")
SMALL = shape(width=128, tokens=5)


@pytest.fixture(params=api.IMPLEMENTATIONS)
def implementation(request):
  """Each by its name; kernels of other machines are interpreted.

  As XLA: the interpreter that imitates a TPU has side effects, which remat
  refuses.
  """
  with pltpu.force_tpu_interpret_mode(True):  # pyright: ignore
    yield request.param


def folded_inputs(of: shapes.Shape, dtype=jnp.float32):
  """Video tokens, K', V', mask and a cotangent of the output."""
  size = (of.batch, of.frames, of.slots, of.heads, of.width)
  video = (of.batch, of.frames, of.tokens, of.width)
  _, mask = of.geometry.windows(of.frames, of.speech)
  return (
    draw(0, *video, dtype=dtype),
    (draw(1, *size) / of.width**0.5).astype(dtype),
    (draw(2, *size) / of.heads**0.5).astype(dtype),
    jnp.asarray(mask),
    draw(3, *video, dtype=dtype),
  )


def both(attend, x, key, value, mask, cotangent):
  """The output and all gradients, by name."""
  out, pull = jax.vjp(lambda *given: attend(*given, mask), x, key, value)
  x, key, value = pull(cotangent)
  return dict(out=out, x=x, key=key, value=value)


def attend_with(implementation):
  return lambda x, key, value, mask: api.windowed_attention(
    x, api.Folded(key, value, mask), implementation=implementation
  )


def reference(x, key, value, mask, cotangent):
  wide = [y.astype(jnp.float32) for y in (x, key, value)]
  with jax.default_matmul_precision("highest"):
    return jax.jit(both, static_argnums=0)(
      ref.windowed_attention, *wide, mask, cotangent.astype(jnp.float32)
    )


def longest_sum(of: shapes.Shape) -> int:
  return max(of.width, of.tokens, of.slots * of.heads)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("of", shapes.CI, ids=str)
def test_matches_reference(implementation, of, dtype):
  inputs = folded_inputs(of, dtype)
  got = jax.jit(both, static_argnums=0)(attend_with(implementation), *inputs)
  assert {y.dtype for y in got.values()} == {jnp.dtype(dtype)}
  # Sums are float32: bfloat16 rounds what goes in and comes out, no more.
  reduced = longest_sum(of) if dtype == jnp.float32 else 1
  numerics.assert_close(got, reference(*inputs), dtype, reduced)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("causal", "edge"), [(False, "clip"), (True, "shift")])
def test_equals_the_published_form(implementation, order, causal, edge):
  of = geometry(order=order, causal=causal, edge=edge)
  x, speech = make_inputs(SMALL, tokens=10)
  weights = make_weights(SMALL, order)
  cotangent = draw(11, *x.shape)

  def collapsed(given):
    folded = api.fold_speech(given["speech"], given["weights"], of, x.shape[1])
    return api.windowed_attention(
      given["x"], folded, implementation=implementation
    )

  def published(given):
    return api.projected_window_attention(
      *(given["x"], given["speech"], given["weights"], of), implementation="xla"
    )

  def gradients(form, given):
    out, pull = jax.vjp(form, given)
    return out, *pull(cotangent)

  given = dict(x=x, speech=speech, weights=weights)
  run = jax.jit(gradients, static_argnums=0)
  numerics.assert_close(
    run(collapsed, given), run(published, given), jnp.float32, reduced=512
  )


@pytest.mark.parametrize("edge", ["clip", "shift"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [8, 9, 15])
def test_speech_outside_window_has_zero_gradient(
  implementation, tokens, causal, edge
):
  of = geometry(edge=edge, causal=causal)
  x, speech = make_inputs(SMALL, tokens)
  weights = make_weights(SMALL, "none")
  frames = SMALL.frames

  def of_frame(speech):
    folded = api.fold_speech(speech, weights, of, frames)
    out = api.windowed_attention(x, folded, implementation=implementation)
    return out[0, :, :, 0].sum(-1)  # One number per latent frame.

  _, pull = jax.vjp(jax.jit(of_frame), speech)
  influence = np.stack(
    [np.abs(pull(row)[0][0]).sum(-1) > 0 for row in jnp.eye(frames)]
  )
  index, valid = of.windows(frames, tokens)
  want = np.zeros_like(influence)
  for frame in range(frames):
    want[frame, index[frame][valid[frame]]] = True
  np.testing.assert_array_equal(influence, want)


def test_token_without_speech_in_its_window_gets_zero(implementation):
  of = geometry()
  x, speech = make_inputs(SMALL, tokens=4)  # Window 2 lies outside.
  weights = make_weights(SMALL, "none")
  folded = api.fold_speech(speech, weights, of, SMALL.frames)
  assert not folded.mask[2].any() and folded.mask[:2].any(1).all()
  got = both(
    attend_with(implementation),
    *(x, folded.key, folded.value, folded.mask, draw(3, *x.shape)),
  )
  assert float(jnp.abs(got["out"][:, 0]).max()) > 0
  for name, y in got.items():
    np.testing.assert_array_equal(y[:, 2], 0, err_msg=name)


def test_softmax_is_safe_in_every_head(implementation):
  """A head of large scores must not swamp those of another in its row."""
  x, key, value, mask, cotangent = folded_inputs(SMALL)
  # Scores of hundreds: exp overflows, and float32 still rounds them by 1e-5.
  key = key.at[:, :, :, 0].multiply(1e2).at[:, :, :, 1].add(-2 * x[:, :1, :1])
  inputs = x, key, value, mask, cotangent
  got = both(attend_with(implementation), *inputs)
  assert all(bool(jnp.isfinite(y).all()) for y in got.values())
  numerics.assert_close(
    got["out"], reference(*inputs)["out"], jnp.float32, 10**4
  )


def test_is_the_same_bit_by_bit_each_time(implementation):
  inputs = folded_inputs(dataclasses.replace(SMALL, tokens=150), jnp.bfloat16)
  run = jax.jit(both, static_argnums=0)
  attend = attend_with(implementation)
  numerics.assert_same(run(attend, *inputs), run(attend, *inputs))


def test_under_vmap_equals_one_by_one(implementation):
  attend = attend_with(implementation)
  x, key, value, mask, cotangent = folded_inputs(SMALL)
  several = [jnp.stack([y, 2 * y]) for y in (x, key, value, cotangent)]
  one = lambda x, key, value, cotangent: both(
    attend, x, key, value, mask, cotangent
  )
  got = jax.jit(jax.vmap(one))(*several)
  want = [jax.jit(one)(*(y[i] for y in several)) for i in range(2)]
  want = jax.tree.map(lambda *ys: jnp.stack(ys), *want)
  numerics.assert_close(got, want, jnp.float32, longest_sum(SMALL))


def test_rematerialised_equals_kept(implementation):
  attend = attend_with(implementation)
  inputs = folded_inputs(SMALL)
  run = jax.jit(both, static_argnums=0)
  numerics.assert_close(
    run(jax.checkpoint(attend), *inputs),
    run(attend, *inputs),
    jnp.float32,
    longest_sum(SMALL),
  )


def on_mesh(**axes: int) -> Mesh:
  """A mesh of so many devices along the axes named."""
  sizes = dict(slice=1, data=1, fsdp=1, context=1, tensor=1) | axes
  devices = jax.devices()[: math.prod(sizes.values())]
  return sharding.make_mesh(sharding.MeshConfig(**sizes), devices)


MESHES = [
  dict(data=2, fsdp=2, tensor=2),
  dict(data=2, context=2, tensor=2),
  dict(tensor=8),
]
SPLIT = dataclasses.replace(SMALL, batch=4, frames=4, heads=8)


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_sharded_equals_unsharded(implementation, axes):
  inputs = folded_inputs(SPLIT)
  run = jax.jit(both, static_argnums=0)
  mesh = on_mesh(**axes)
  with jax.set_mesh(mesh):
    got = run(attend_with(implementation), *inputs)
  numerics.assert_close(
    got, reference(*inputs), jnp.float32, longest_sum(SPLIT)
  )
  clips = 4 // (mesh.shape["data"] * mesh.shape["fsdp"])
  frames, heads = 4 // mesh.shape["context"], 8 // mesh.shape["tensor"]
  video = (clips, frames, SPLIT.tokens, SPLIT.width)
  speech = (clips, frames, SPLIT.slots, heads, SPLIT.width)
  part = {n: y.sharding.shard_shape(y.shape) for n, y in got.items()}
  assert part == dict(out=video, x=video, key=speech, value=speech)


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_sums_over_heads_are_added_up_once(axes):
  inputs = folded_inputs(SPLIT)
  attend = attend_with("xla")

  def reductions(fn, *given) -> int:
    text = jax.jit(fn).lower(*given).compile().as_text() or ""
    # The compiler may add up several arrays at once.
    added = re.findall(r" all-reduce\(([^)]*)\)", text)
    return sum(len(arrays.split(",")) for arrays in added)

  with jax.set_mesh(on_mesh(**axes)):
    assert reductions(attend, *inputs[:4]) == 1
    # And the gradient of x.
    assert reductions(functools.partial(both, attend), *inputs) == 2


@pytest.mark.parametrize("form", ["collapsed", "published"])
def test_sharded_weights_get_the_gradients_of_whole_ones(form):
  x, speech = make_inputs(SPLIT)
  weights = make_weights(SPLIT, "slots", imported=form == "published")
  spans = geometry(order="slots")
  cotangent = draw(11, *x.shape)

  def attend(x, speech, weights):
    if form == "published":
      return api.projected_window_attention(
        x, speech, weights, spans, implementation=None
      )
    folded = api.fold_speech(speech, weights, spans, SPLIT.frames)
    return api.windowed_attention(x, folded, implementation=None)

  @jax.jit
  def run(*given):
    out, pull = jax.vjp(attend, *given)
    return out, pull(cotangent)

  want = run(x, speech, weights)
  mesh = on_mesh(data=2, fsdp=2, tensor=2)
  letters = {"query": "D N H", "key": "D N H", "value": "D N H", "out": "N H D"}
  place = lambda y, axes: jax.device_put(
    y, sharding.parameter_sharding(mesh, axes, y.shape)
  )
  placed = dataclasses.replace(
    weights,
    **{name: place(getattr(weights, name), a) for name, a in letters.items()},
  )
  with jax.set_mesh(mesh):
    got = run(*sharding.place((x, speech), mesh), placed)
  numerics.assert_close(got, want, jnp.float32, reduced=512)
  assert got[0].sharding.shard_shape(x.shape) == (1, *x.shape[1:])


def kernels_in(lowered: str) -> int:
  return lowered.count("tpu_custom_call")


@pytest.mark.parametrize("meshed", [False, True])
@pytest.mark.parametrize("name", [None, "pallas_tpu"])
def test_kernel_runs_where_compiled_for_tpus(name, meshed):
  """Lowered on a machine without one: forward, backward, rematerialised."""
  attend = attend_with(name)
  inputs = folded_inputs(dataclasses.replace(SMALL, batch=4))

  def count(attend, fn=both, inputs=inputs) -> int:
    traced = jax.jit(fn, static_argnums=0).trace(attend, *inputs)
    return kernels_in(traced.lower(lowering_platforms=("tpu",)).as_text())

  with jax.set_mesh(on_mesh(data=2, fsdp=2, tensor=2) if meshed else on_mesh()):
    forward = lambda attend, *inputs: attend(*inputs)
    assert count(attend, forward, inputs[:4]) == 1
    assert count(attend) == 2
    assert count(jax.checkpoint(attend)) == 3


def test_kernel_is_exported_for_tpus():
  inputs = folded_inputs(SMALL)[:4]
  attend = jax.jit(attend_with(None))
  exported = jax.export.export(attend, platforms=["tpu"])(*inputs)
  assert kernels_in(exported.mlir_module()) == 1
  exported = jax.export.export(attend, platforms=["cpu"])(*inputs)
  assert kernels_in(exported.mlir_module()) == 0
  numerics.assert_same(exported.call(*inputs), attend(*inputs))


@pytest.mark.parametrize("form", [both, lambda attend, *of: attend(*of[:4])])
def test_automatic_is_xla_where_compiled_for_others(form):
  inputs = folded_inputs(SMALL)
  run = jax.jit(form, static_argnums=0)
  numerics.assert_close(
    run(attend_with(None), *inputs),
    run(attend_with("xla"), *inputs),
    jnp.float32,
    longest_sum(SMALL),
  )


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_kernel_that_was_asked_for_never_falls_back(platform):
  inputs = folded_inputs(SMALL)
  attend = attend_with("pallas_tpu")
  for fn, given in (
    (attend, inputs[:4]),
    (lambda *a: both(attend, *a), inputs),
  ):
    traced = jax.jit(fn).trace(*given)
    with pytest.raises(NotImplementedError, match=r"pallas_tpu.*'xla'"):
      traced.lower(lowering_platforms=(platform,))
  with pytest.raises(NotImplementedError, match="force_tpu_interpret_mode"):
    attend(*inputs[:4])


def test_published_form_has_no_kernel():
  with pytest.raises(NotImplementedError, match="fold_speech"):
    api.projected_window_attention(
      *make_inputs(SMALL),
      *(make_weights(SMALL, "none"), geometry()),
      implementation="pallas_tpu",
    )


def test_implementation_that_is_not_there_is_refused(monkeypatch):
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
  with pytest.raises(ValueError, match=r"triton.*xla, pallas_tpu"):
    attend_with("triton")(*folded_inputs(SMALL)[:4])


def test_speech_folded_for_other_frames_is_refused():
  x, key, value, mask, _ = folded_inputs(SMALL)
  with pytest.raises(ValueError, match=r"2 latent frames.*folded for 3"):
    attend_with("xla")(x[:, :2], key, value, mask)


def test_weights_with_norm_on_queries_or_biases_are_not_folded():
  _, speech = make_inputs(SMALL)
  weights = make_weights(SMALL, "none", imported=True)
  with pytest.raises(ValueError, match=r"query_norm, query_bias.*projected"):
    api.fold_speech(speech, weights, geometry(), SMALL.frames)
