import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from experiments import _encoders
from mocha_jax import media
from mocha_jax.encoders import wav2vec2
from mocha_jax.weights import tables
from mocha_jax.weights import wav2vec2 as names
from tests.media_files import REAL, needs_real_clips
from tests.parity import compare

FRAMES, FPS = 12, 24
SMALL = dict(
  layers=3,
  width=24,
  ffn=40,
  heads=3,
  channels=16,
  kernels=(10, 3, 3, 3, 3, 2, 2),
  strides=(5, 2, 2, 2, 2, 2, 2),
  position_kernel=16,
  position_groups=4,
)
REAL_SIZE = _encoders.wav2vec2_base()["sizes"]


def make_theirs(sizes, cls=transformers.Wav2Vec2Model, **settings):
  """The network of transformers with random weights that all matter."""
  config = transformers.Wav2Vec2Config(
    hidden_size=sizes["width"],
    num_hidden_layers=sizes["layers"],
    num_attention_heads=sizes["heads"],
    intermediate_size=sizes["ffn"],
    conv_dim=(sizes["channels"],) * len(sizes["kernels"]),
    conv_kernel=sizes["kernels"],
    conv_stride=sizes["strides"],
    num_conv_pos_embeddings=sizes["position_kernel"],
    num_conv_pos_embedding_groups=sizes["position_groups"],
    codevector_dim=8,
    proj_codevector_dim=8,
    num_codevectors_per_group=4,
    **settings,
  )
  torch.manual_seed(0)
  model = cls(config).eval()
  with torch.no_grad():
    for name, x in model.named_parameters():
      if name.endswith("original0"):
        x.uniform_(0.5, 1.5)
      elif x.ndim > 1:
        x.normal_(std=(2 / x[0].numel()) ** 0.5)
      else:
        x.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.2)
  return model


def make_ours(sizes, weights, dtype="float32", interpolate="before"):
  config = wav2vec2.Wav2Vec2Config(
    name="wav2vec2",
    sizes=wav2vec2.Wav2Vec2Sizes(**sizes),
    interpolate=interpolate,
    weights=weights,
    dtype=dtype,
    batch_size=2,
  )
  return wav2vec2.Wav2Vec2Speech(config)


def save(model, folder):
  model.save_pretrained(folder)
  return str(folder)


def sounds(length=8000):
  """Two sounds, as wav2vec2 wants them: the second ends in silence."""
  rng = np.random.default_rng(0)
  raw = [rng.normal(size=n).cumsum()[:n] / 9 for n in (length, length // 2)]
  return np.stack([wav2vec2.prepared(x, 16_000, length) for x in raw])


def theirs_of(model, samples, frames=FRAMES, where="before"):
  """All layers, side by side, interpolated with PyTorch's function."""
  stretch = lambda x: torch.nn.functional.interpolate(
    x, size=frames, mode="linear", align_corners=True
  )
  outputs = []
  hooks = [
    layer.register_forward_hook(lambda *args: outputs.append(args[-1]))
    for layer in model.encoder.layers
  ]
  with torch.no_grad():
    x = torch.from_numpy(samples).to(model.dtype)
    x = model.feature_extractor(x)
    x = stretch(x) if where == "before" else x
    x, _ = model.feature_projection(x.mT)
    model.encoder(x)
  for hook in hooks:
    hook.remove()
  out = torch.cat(outputs, dim=-1)
  return out if where == "before" else stretch(out.mT).mT


def ours_of(encoder, samples, frames=FRAMES):
  encode = lambda params, x: encoder._encode(params, x, frames)
  return encoder.in_batches(encode, samples)


def test_sound_is_prepared_as_theirs():
  x = np.random.default_rng(3).normal(0.3, 0.05, 4000).astype(np.float32)
  theirs = transformers.Wav2Vec2FeatureExtractor()
  want = theirs(x, sampling_rate=16_000).input_values[0]
  compare.assert_parity(wav2vec2.prepared(x, 16_000, 4000), want)


def test_parts(tmp_path):
  theirs = make_theirs(SMALL)
  ours = make_ours(SMALL, save(theirs, tmp_path))
  model = ours.network.bind(ours.params)
  graph, layers = nnx.split(model.blocks)
  layer = nnx.merge(graph, jax.tree.map(lambda x: x[1], layers))
  samples = sounds()
  rng = np.random.default_rng(1)
  x = rng.normal(size=(2, FRAMES, 24)).astype(np.float32)
  their_layer = theirs.encoder.layers[1]
  with torch.no_grad():
    y = torch.from_numpy(x)
    want = dict(
      first=theirs.feature_extractor.conv_layers[0](
        torch.from_numpy(samples)[:, None]
      ).mT,
      features=theirs.feature_extractor(torch.from_numpy(samples)).mT,
      positions=theirs.encoder.pos_conv_embed(y),
      attention=their_layer.attention(y)[0],
      mlp=their_layer.feed_forward(y),
      layer=their_layer(y),
    )
  x = jnp.asarray(x)
  got = dict(
    first=model.convolutions[0](jnp.asarray(samples)[..., None]),
    features=model.features(jnp.asarray(samples)),
    positions=model.positions(x),
    attention=layer.attention(x),
    mlp=layer.mlp(x),
    layer=layer(x),
  )
  compare.assert_parity(got, want)


@pytest.mark.parametrize("where", ["before", "after"])
def test_encoder(where, tmp_path):
  theirs = make_theirs(SMALL)
  weights, samples = save(theirs, tmp_path), sounds()
  exact = theirs_of(theirs, samples, where=where).numpy()
  ours = make_ours(SMALL, weights, interpolate=where)
  got = ours_of(ours, samples)
  assert got.shape == (2, FRAMES, ours.width)
  compare.assert_parity(got, exact)
  ours = make_ours(SMALL, weights, "bfloat16", where)
  half = theirs_of(theirs.bfloat16(), samples, where=where).float()
  compare.assert_bfloat16_parity(ours_of(ours, samples), half, exact)


def test_without_interpolation_it_is_their_own_forward(tmp_path):
  theirs = make_theirs(SMALL)
  ours = make_ours(SMALL, save(theirs, tmp_path))
  samples = sounds()
  with torch.no_grad():
    out = theirs(torch.from_numpy(samples), output_hidden_states=True)
  want = torch.cat(out.hidden_states[1:], dim=-1)
  compare.assert_parity(ours_of(ours, samples, want.shape[1]), want)


def test_real_size_of_the_convolutions_and_one_layer(tmp_path):
  sizes = REAL_SIZE | dict(layers=1)
  theirs = make_theirs(sizes)
  ours = make_ours(sizes, save(theirs, tmp_path))
  samples = sounds()
  got = ours_of(ours, samples)
  compare.assert_parity(got, theirs_of(theirs, samples))


@pytest.mark.parametrize(
  "cls", [transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2ForPreTraining]
)
def test_name_of_every_tensor_of_a_whole_model_is_known(cls, tmp_path):
  theirs = make_theirs(SMALL, cls)
  ours = make_ours(SMALL, save(theirs, tmp_path))
  samples = sounds()
  got = ours_of(ours, samples)
  compare.assert_parity(got, theirs_of(theirs.wav2vec2, samples))


@pytest.mark.parametrize(
  "heads, settings, message",
  [
    (
      3,
      dict(do_stable_layer_norm=True),
      "do_stable_layer_norm is true, but only",
    ),
    (3, dict(layer_norm_eps=1e-3), "layer_norm_eps is 0.001, but only 1e-05"),
    (3, dict(hidden_act="relu"), 'hidden_act is "relu", but only "gelu"'),
    (6, {}, "num_attention_heads is 6: set sizes.heads"),
  ],
)
@pytest.mark.parametrize(
  "cls", [transformers.Wav2Vec2Model, transformers.Wav2Vec2ForCTC]
)
def test_what_no_shape_tells_is_read_where_transformers_saved_it(
  cls, heads, settings, message, tmp_path
):
  theirs = make_theirs(SMALL | dict(heads=heads), cls, **settings)
  ours = make_ours(SMALL, save(theirs, tmp_path))
  with pytest.raises(ValueError, match=message):
    ours.check_files()


def test_older_names_are_known_too():
  theirs = {
    name.replace("parametrizations.weight.original0", "weight_g").replace(
      "parametrizations.weight.original1", "weight_v"
    ): x
    for name, x in make_theirs(SMALL).state_dict().items()
  }
  network = make_ours(SMALL, "").network
  entries, ignored = names.table(theirs, 7)
  tables.plan(entries, network.shapes, network.letters, theirs, ignored=ignored)


def test_preset_is_the_size_of_its_file():
  """Names and shapes alone: nothing of this size is made."""
  with torch.device("meta"):
    theirs = make_theirs(REAL_SIZE).state_dict()
  encoder = make_ours(REAL_SIZE, "")
  assert encoder.width == 9216
  network = encoder.network
  entries, ignored = names.table(theirs, 7)
  tables.plan(entries, network.shapes, network.letters, theirs, ignored=ignored)


@needs_real_clips
@pytest.mark.parametrize("where", ["before", "after"])
def test_real_speech(where, tmp_path):
  """The sound of a clip, cut to its frames, resampled and normed by us."""
  clip = sorted(pathlib.Path(REAL).rglob("*_speech.wav"))[0]
  speech = media.read_sound(clip, 24_000)[: 24_000 * 2]
  theirs = make_theirs(SMALL)
  ours = make_ours(SMALL, save(theirs, tmp_path), interpolate=where)
  frames = 50  # At 25 fps: 2 s.
  got = ours(speech, sample_rate=24_000, fps=25, frames=frames)
  heard = wav2vec2.prepared(speech, 24_000, 32_000)
  assert abs(heard.std() - 1) < 1e-3
  want = theirs_of(theirs, heard[None], frames, where)[0]
  compare.assert_parity(got, want)
