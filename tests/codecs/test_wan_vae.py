import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mocha_jax import codecs
from mocha_jax.codecs import tiles, wan_network, wan_vae
from mocha_jax.codecs.wan_network import Cuts, WanNetwork
from tests import numerics, wan_vae_files

# The longest sum: 27 taps x 16 channels, in some 30 layers one after another.
REDUCED = 27 * 16 * 30


@pytest.fixture(scope="module")
def params():
  return wan_vae_files.make_params()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, params):
  path = tmp_path_factory.mktemp("weights") / "vae.safetensors"
  return wan_vae_files.write(path, params, "diffusers")


@functools.partial(jax.jit, static_argnums=2)
def encode(params, frames, cuts):
  return bound(params).encode(frames, cuts)


@functools.partial(jax.jit, static_argnums=2)
def decode(params, latents, cuts):
  return bound(params).decode(latents, cuts, dtype="float32")


def bound(params) -> WanNetwork:
  return wan_vae_files.NETWORK.bind(params)  # pyright: ignore


def make_frames(frames, height, width):
  rng = np.random.default_rng(frames)
  return rng.integers(0, 256, (1, frames, height, width, 3)).astype(np.uint8)


def make_latents(frames, rows, columns):
  rng = np.random.default_rng(frames)
  return rng.normal(size=(1, frames, rows, columns, 16)).astype(np.float32)


def test_latents_are_of_what_was_seen_so_far(params):
  frames = make_frames(13, 16, 16)
  latents = encode(params, frames, Cuts(chunk=1, tile=0))
  assert latents.shape == (1, 4, 2, 2, 16)
  alone = encode(params, frames[:, :1], Cuts(chunk=1, tile=0))
  numerics.assert_close(alone, latents[:, :1], jnp.float32, REDUCED)


def test_chunks_of_frames_give_what_the_whole_clip_gives(params):
  frames = make_frames(13, 16, 16)
  chunked = encode(params, frames, Cuts(chunk=1, tile=0))
  whole = encode(params, frames, Cuts(chunk=3, tile=0))
  numerics.assert_close(chunked, whole, jnp.float32, REDUCED)


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_of_latents_give_what_the_whole_clip_gives(params, chunk):
  latents = make_latents(4, 2, 3)
  chunked = decode(params, latents, Cuts(chunk=chunk, tile=0))
  whole = decode(params, latents, Cuts(chunk=3, tile=0))
  assert whole.shape == (1, 13, 16, 24, 3)
  numerics.assert_close(chunked, whole, jnp.float32, REDUCED)


def test_frames_are_of_the_latents_so_far(params):
  latents = make_latents(4, 2, 3)
  frames = decode(params, latents, Cuts(chunk=1, tile=0))
  alone = decode(params, latents[:, :1], Cuts(chunk=1, tile=0))
  numerics.assert_close(alone, frames[:, :1], jnp.float32, REDUCED)


def test_tiles_of_latents_give_what_the_whole_picture_gives(params):
  # Of 40 columns, tiles of 5 with halos of 13 begin and end within.
  latents = make_latents(2, 2, 40)
  tiled = decode(params, latents, Cuts(chunk=1, tile=5))
  whole = decode(params, latents, Cuts(chunk=1, tile=0))
  numerics.assert_close(tiled, whole, jnp.float32, REDUCED)


def test_tiles_of_frames_give_what_the_whole_picture_gives(params):
  frames = make_frames(5, 16, 8 * 24)
  tiled = encode(params, frames, Cuts(chunk=1, tile=5))
  whole = encode(params, frames, Cuts(chunk=1, tile=0))
  numerics.assert_close(tiled, whole, jnp.float32, REDUCED)


def test_picture_is_put_together_of_tiles_of_one_size():
  seen = []

  def make(tile):
    seen.append((tile.rows.cells, tile.columns.cells))
    picture = jnp.arange(2 * 7 * 2 * 10).reshape(1, 14, 20, 1)
    whole = tiles.whole(14, 20)
    return tiles.cut(picture, whole, tile.at(2, 0))

  made = tiles.assemble(make, 7, 10, most=4, scale=2)
  assert {*seen} == {(4, 4)}
  np.testing.assert_array_equal(made.ravel(), np.arange(280))


def test_halo_ends_with_the_picture():
  part = tiles.Part(2, 3, 10)
  assert part.at(2, 1) == tiles.Part(jnp.int32(3), 8, 20)
  assert tiles.Part(0, 3, 10).at(2, 5).start == 0
  assert tiles.Part(7, 3, 10).at(2, 5) == tiles.Part(jnp.int32(4), 16, 20)
  assert tiles.Part(1, 8, 10).at(1, 1) == tiles.Part(0, 10, 10)


def test_codec_gives_latents_and_frames_of_one_clip_and_of_many(weights):
  codec = codecs.fit(wan_vae_files.make_config(weights), [])
  assert (codec.time, codec.space, codec.channels) == (4, 8, 16)
  assert codec.causal
  frames = make_frames(5, 16, 16).repeat(2, 0)
  latents = codec.encode(frames)
  assert latents.shape == (2, *codec.latent_shape(5, 16, 16))
  np.testing.assert_array_equal(codec.encode(frames[1]), latents[1])
  shown = codec.decode(latents.astype(np.float16))
  assert (shown.shape, shown.dtype) == (frames.shape, np.uint8)


def test_same_weights_make_the_same_file_wherever_they_lie(tmp_path, params):
  made = []
  for place in ("a", "b"):
    (tmp_path / place).mkdir()
    file = tmp_path / place / "vae.safetensors"
    wan_vae_files.write(file, params, "diffusers")
    codec = codecs.fit(wan_vae_files.make_config(file), [])
    codec.save(tmp_path / place / "codec.npz")
    made.append((tmp_path / place / "codec.npz").read_bytes())
  assert made[0] == made[1]


def test_saved_codec_is_the_same_without_the_weights_file(tmp_path, params):
  weights = wan_vae_files.write(tmp_path / "a.safetensors", params, "released")
  codec = codecs.fit(wan_vae_files.make_config(weights), [])
  codec.save(tmp_path / "codec.npz")
  weights.unlink()
  assert [path.name for path in tmp_path.iterdir()] == ["codec.npz"]
  loaded = codecs.load(tmp_path / "codec.npz")
  assert isinstance(loaded, wan_vae.WanVAE)
  numerics.assert_same(loaded.params, params)
  sent = pickle.dumps(loaded)
  assert len(sent) < 1000
  numerics.assert_same(pickle.loads(sent).params, params)


@pytest.mark.parametrize("kind", wan_vae_files.KINDS)
def test_every_tensor_of_a_file_has_its_place(tmp_path, params, kind):
  path = wan_vae_files.write(tmp_path / "vae.safetensors", params, kind)
  read = wan_vae.open_weights(wan_vae_files.make_config(path)).params
  numerics.assert_same(read, params)
  with pytest.raises(ValueError, match=r"codec.weights: .* misshapen"):
    wan_vae.open_weights(wan_vae_files.make_config(path, width=2))


def test_missing_weights_are_asked_for():
  with pytest.raises(ValueError, match=r"codec.weights: .* needs the path"):
    codecs.fit(wan_vae_files.make_config(""), [])
  with pytest.raises(ValueError, match=r"codec.weights: nowhere.pth: no such"):
    codecs.fit(wan_vae_files.make_config("nowhere.pth"), [])


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(width=3), "width=3 must be even"),
    (dict(chunk=0), "chunk=0 must be above 0"),
    (dict(tile=-1), "tile=-1 must be at least 1, or 0"),
  ],
)
def test_config_is_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    wan_vae_files.make_config("", **changes)


def test_config_names_the_codec():
  given = vars(wan_vae_files.make_config("a.pth"))
  assert codecs.make_config(given) == wan_vae_files.make_config("a.pth")
  with pytest.raises(ValueError, match='unknown; nearest is "wan_vae"'):
    codecs.make_config(given | dict(name="wan_vea"))
  with pytest.raises(ValueError, match=r"config.codec.time = 2: expected"):
    codecs.make_config(given | dict(time=2))


def test_released_sizes_are_those_of_the_released_file():
  network = jax.eval_shape(
    lambda: wan_vae_files.Network(
      lambda rngs: WanNetwork(96, dtype="bfloat16", rngs=rngs)
    ).init(jax.random.key(0))
  )
  # As the model card says: 127 M parameters.
  assert sum(x.size for x in jax.tree.leaves(network)) == 126_892_531


def test_statistics_are_of_all_channels():
  assert len(wan_network.MEAN) == len(wan_network.STD) == 16
