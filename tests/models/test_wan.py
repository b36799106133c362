import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax.batch import Condition
from mocha_jax.models import make_config, make_model, wan
from mocha_jax.models.embed import TrainedTextConfig
from mocha_jax.models.lora import LoraConfig
from mocha_jax.models.speech import SpeechConfig
from mocha_jax.network import Network, paths
from mocha_jax.weights import wan as names
from tests import adapters, numerics

CONFIG = wan.WanConfig(
  name="wan",
  layers=2,
  width=24,
  ffn=40,
  heads=2,
  head=12,
  channels=4,
  patch=2,
  ratio=4,
  causal=True,
  max_frames=4,
  speech=SpeechConfig(
    features=6,
    context=1,
    hidden=16,
    attention="window",
    order="none",
    edge="clip",
    position="none",
    implementation="xla",
  ),
  frozen_text={"umt5": 10},
  small_text=None,
  dtype="float32",
  attention="xla",
  remat="none",
)


def make(config=CONFIG, *, scale: float = 0.3) -> tuple[Network, Any]:
  """A network and parameters, none at zero."""
  network = Network(lambda rngs: make_model(config, rngs=rngs))
  keys = iter(jax.random.split(jax.random.key(1), 1000))
  params = jax.tree.map(
    lambda x: scale * jax.random.normal(next(keys), x.shape), network.shapes
  )
  return network, params


def inputs(config=CONFIG, batch: int = 2):
  keys = jax.random.split(jax.random.key(2), 3)
  x_t = jax.random.normal(keys[0], (batch, 3, 4, 6, config.channels))
  speech = jax.random.normal(keys[1], (batch, 9, config.speech.features))
  text = {"umt5": jax.random.normal(keys[2], (batch, 5, 10))}
  mask = {"umt5": jnp.arange(5)[None] < jnp.array([[5], [3]])[:batch]}
  return x_t, jnp.array([0.3, 0.8])[:batch], Condition(speech, text, mask)


def run(network, params, given):
  return network.bind(params)(*given)


def test_velocity_has_the_shape_of_the_latents():
  given = inputs()
  out = run(*make(), given)
  assert out.shape == given[0].shape and out.dtype == jnp.float32


def test_speech_changes_nothing_at_the_start():
  network, params = make()
  fresh = network.init(jax.random.key(0))
  params["speech"] = fresh["speech"]
  for part in ("speech_norm", "speech_attention"):
    params["blocks"][part] = fresh["blocks"][part]
  x_t, t, condition = inputs()
  silent = dataclasses.replace(condition, speech=0 * condition.speech)
  out = run(network, params, (x_t, t, condition))
  assert float(jnp.abs(out).max()) > 0
  numerics.assert_same(out, run(network, params, (x_t, t, silent)))
  # And only for its output: it listens.
  assert not np.any(fresh["blocks"]["speech_attention"]["out"])
  assert np.any(fresh["blocks"]["speech_attention"]["value"])


def test_speech_is_heard():
  network, params = make()
  x_t, t, condition = inputs()
  turned = dataclasses.replace(condition, speech=condition.speech[:, ::-1])
  one, other = (run(network, params, (x_t, t, c)) for c in (condition, turned))
  assert float(jnp.abs(one - other).max()) > 1e-3


def test_longer_clips_than_the_model_allows_are_refused():
  config = dataclasses.replace(CONFIG, max_frames=2)
  network, params = make(config)
  with pytest.raises(ValueError, match=r"3 latent frames.* max_frames=2"):
    run(network, params, inputs())


def test_features_of_padding_count_as_zero():
  network, params = make()
  x_t, t, condition = inputs()
  other = condition.text["umt5"].at[1, 3:].set(7.0)
  changed = dataclasses.replace(condition, text={"umt5": other})
  numerics.assert_same(
    run(network, params, (x_t, t, changed)),
    run(network, params, (x_t, t, condition)),
  )


def test_places_matter_by_their_distance_alone():
  """Scores of turned pairs depend on how far apart two tokens are."""
  query, key = jax.random.normal(jax.random.key(0), (2, 1, 12))
  turn = wan.rotation((4, 1, 1), 12)
  place = lambda x: wan.rotate(jnp.tile(x, (1, 4, 1, 1)), turn)
  scores = jnp.einsum("BTNH,BSNH->TS", place(query), place(key))
  for offset in (-2, -1, 0, 1, 2):
    along = jnp.diagonal(scores, offset)
    numerics.assert_close(
      along, jnp.full_like(along, along[0]), jnp.float32, 12
    )
  assert float(jnp.ptp(scores)) > 1e-3


def test_remat_changes_no_gradient():
  given = inputs()

  def gradient(policy):
    network, params = make(dataclasses.replace(CONFIG, remat=policy))
    return jax.grad(lambda p: jnp.mean(run(network, p, given) ** 2))(params)

  numerics.assert_close(gradient("dots"), gradient("none"), jnp.float32, 2048)


def test_adapters_change_nothing_until_they_are_trained_and_merge():
  lora = LoraConfig(
    rank=3,
    alpha=6.0,
    targets=(
      "self_attention.query",
      "self_attention.out",
      "text_attention.key",
    ),
  )
  plain, _ = make()
  network, params = make(dataclasses.replace(CONFIG, lora=lora))
  given = inputs()
  adapted, merged = run(network, params, given), adapters.merged(params, lora)
  numerics.assert_close(run(plain, merged, given), adapted, jnp.float32, 2048)
  assert jax.tree.structure(merged) == jax.tree.structure(plain.shapes)
  fresh = paths(network.init(jax.random.key(0)))
  ups = [x for path, x in fresh.items() if path.endswith(".up")]
  assert len(ups) == 3 and not any(np.any(x) for x in ups)


def test_adapter_of_what_no_layer_has_is_refused():
  lora = LoraConfig(rank=1, alpha=1.0, targets=("self_attention.qery",))
  with pytest.raises(ValueError, match=r'nearest is "self_attention.query"'):
    dataclasses.replace(CONFIG, lora=lora)


def test_trained_text_is_read_but_not_beside_frozen():
  text = TrainedTextConfig(vocabulary=16, length=4, layers=0)
  with pytest.raises(ValueError, match="only one"):
    dataclasses.replace(CONFIG, small_text=text)
  config = dataclasses.replace(CONFIG, small_text=text, frozen_text={})
  x_t, t, condition = inputs()
  condition = Condition(
    condition.speech,
    {"small_text": jnp.array([[1, 2, 0, 0], [1, 2, 3, 4]])},
    {"small_text": jnp.arange(4)[None] < jnp.array([[2], [4]])},
  )
  assert run(*make(config), (x_t, t, condition)).shape == x_t.shape


SIZES = {
  1_418_996_800: dict(layers=30, width=1536, ffn=8960, heads=12),
  14_288_491_584: dict(layers=40, width=5120, ffn=13_824, heads=40),
}


@pytest.mark.parametrize("parameters", SIZES)
def test_parameters_are_as_many_as_wan_has(parameters):
  config = dataclasses.replace(
    CONFIG,
    head=128,
    channels=16,
    frozen_text={"umt5": 4096},
    **SIZES[parameters],
  )
  network = Network(lambda rngs: wan.Wan(config, rngs=rngs))
  ours = [entry.ours for entry in names.original(2, network.shapes)]
  shapes = paths(network.shapes)
  assert sum(shapes[path].size for path in ours) == parameters


def test_exported_names_are_those_of_wan_and_of_what_starts_fresh():
  shapes = make()[0].shapes
  exported = {entry.ours for entry in names.diffusers(2, shapes)}
  original = {entry.ours for entry in names.original(2, shapes)}
  assert original < exported == {*paths(shapes)}
  assert all(
    path.startswith(sum(names.FRESH, ())) for path in exported - original
  )


def test_text_of_a_file_is_of_the_encoder_that_there_is():
  shapes = make(dataclasses.replace(CONFIG, frozen_text={"ours": 20}))[0].shapes
  original = {entry.ours for entry in names.original(2, shapes)}
  assert original < {*paths(shapes)}


def test_section_without_a_name_is_movie_gen_and_others_are_refused():
  with pytest.raises(
    ValueError, match=r'"wam" is unknown|wam.*nearest is "wan"'
  ):
    make_config(dict(name="wam"))
  with pytest.raises(ValueError, match=r"config.model.layers is missing"):
    make_config({})
