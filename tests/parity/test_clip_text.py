import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from flax import nnx

from experiments import _encoders
from mocha_jax.encoders import clip_text
from mocha_jax.encoders.interpolate import interpolate
from mocha_jax.export import components
from mocha_jax.weights import clip_text as names
from mocha_jax.weights import files, tables
from tests.parity import compare

LENGTH = 12
SMALL = dict(
  layers=3, width=24, ffn=56, heads=3, vocabulary=99, positions=LENGTH
)


def make_theirs(sizes, activation):
  """The encoder of transformers with random weights that all matter."""
  config = transformers.CLIPTextConfig(
    vocab_size=sizes["vocabulary"],
    hidden_size=sizes["width"],
    intermediate_size=sizes["ffn"],
    num_hidden_layers=sizes["layers"],
    num_attention_heads=sizes["heads"],
    max_position_embeddings=sizes["positions"],
    hidden_act=activation,
    eos_token_id=sizes["vocabulary"] - 1,
  )
  torch.manual_seed(0)
  model = transformers.CLIPTextModel(config).eval()
  with torch.no_grad():
    for name, x in model.named_parameters():
      x.normal_(std=1.0 if "embedding" in name else x.shape[-1] ** -0.5)
      if "norm" in name and name.endswith("weight"):
        x.add_(1)
  return model


def make_ours(sizes, activation, weights, dtype="float32", length=LENGTH):
  config = clip_text.ClipTextConfig(
    name="clip_text",
    sizes=clip_text.ClipTextSizes(**sizes, activation=activation),
    weights=weights,
    tokenizer="bytes",
    length=length,
    cut=False,
    dtype=dtype,
    batch_size=2,
  )
  return clip_text.ClipTextEncoder(config)


def save(model, folder):
  model.save_pretrained(folder)
  return str(folder)


def inputs(length=LENGTH, vocabulary=99):
  rng = np.random.default_rng(0)
  ids = rng.integers(3, vocabulary - 1, (2, length)).astype(np.int32)
  return ids, np.arange(length) < [[length], [length // 3]]


def theirs_of(model, ids, mask):
  ids, shown = torch.from_numpy(ids).long(), torch.from_numpy(mask)
  with torch.no_grad():
    out = model(ids, shown.long()).last_hidden_state
  return (out * shown[..., None]).float().numpy()


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_files_of_every_transformers_are_read(prefix, tmp_path):
  theirs = make_theirs(SMALL, "gelu")
  state = {
    prefix + name.removeprefix("text_model."): x
    for name, x in theirs.state_dict().items()
  }
  file = tmp_path / "model.safetensors"
  safetensors.torch.save_file(state, file)
  ours = make_ours(SMALL, "gelu", str(file))
  ids, mask = inputs()
  compare.assert_parity(
    ours._encode(ours.params, ids, mask), theirs_of(theirs, ids, mask)
  )


def test_is_exported_by_names_that_every_transformers_reads(tmp_path):
  theirs = make_theirs(SMALL, "gelu")
  ours = make_ours(SMALL, "gelu", save(theirs, tmp_path / "theirs"), length=20)
  components.text_encoder(ours, tmp_path / "out", 0, 10**4)
  folder = tmp_path / "out" / "text_encoder"
  names_written = files.open_tensors(folder)
  assert all(name.startswith("text_model.") for name in names_written)
  again, loading = transformers.CLIPTextModel.from_pretrained(
    folder, output_loading_info=True
  )
  assert not any(loading.values())
  ids, mask = inputs(20)
  compare.assert_parity(
    ours._encode(ours.params, ids, mask), theirs_of(again.eval(), ids, mask)
  )


def test_layer(tmp_path):
  theirs = make_theirs(SMALL, "gelu")
  ours = make_ours(SMALL, "gelu", save(theirs, tmp_path))
  model = ours.network.bind(ours.params)
  graph, layers = nnx.split(model.blocks)
  layer = nnx.merge(graph, jax.tree.map(lambda x: x[1], layers))
  x = np.random.default_rng(1).normal(size=(2, LENGTH, 24)).astype(np.float32)
  causal = np.tril(np.ones((LENGTH, LENGTH), bool))
  hidden = torch.where(torch.from_numpy(causal), 0.0, -1e30)[None, None]
  their_layer = theirs.encoder.layers[1]
  with torch.no_grad():
    y = torch.from_numpy(x)
    want = dict(
      norm=their_layer.layer_norm1(y),
      attention=their_layer.self_attn(y, attention_mask=hidden)[0],
      mlp=their_layer.mlp(y),
    )
  x, mask = jnp.asarray(x), jnp.asarray(causal)[None, None]
  got = dict(
    norm=layer.attention_norm(x),
    attention=layer.attention(x, mask=mask),
    mlp=layer.mlp(x),
  )
  compare.assert_parity(got, want)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_encoder(activation, tmp_path):
  theirs = make_theirs(SMALL, activation)
  weights = save(theirs, tmp_path)
  ids, mask = inputs()
  exact = theirs_of(theirs, ids, mask)
  ours = make_ours(SMALL, activation, weights)
  compare.assert_parity(ours.in_batches(ours._encode, ids, mask), exact)
  ours = make_ours(SMALL, activation, weights, dtype="bfloat16")
  got = ours.in_batches(ours._encode, ids, mask)
  half = theirs_of(theirs.bfloat16(), ids, mask)
  compare.assert_bfloat16_parity(got, half, exact)


def test_positions_are_stretched_as_pytorch_would(tmp_path):
  """Theirs with a table that PyTorch has stretched is ours with the short."""
  theirs = make_theirs(SMALL, "gelu")
  ours = make_ours(SMALL, "gelu", save(theirs, tmp_path), length=31)
  short = theirs.embeddings.position_embedding.weight
  long = torch.nn.functional.interpolate(
    short.T[None], 31, mode="linear", align_corners=True
  )[0].T
  compare.assert_parity(
    interpolate(jnp.asarray(short.detach())[None], 31)[0], long
  )
  longer = make_theirs(SMALL | dict(positions=31), "gelu")
  held = theirs.state_dict()
  held["embeddings.position_embedding.weight"] = long
  longer.load_state_dict(held)
  ids, mask = inputs(31)
  got = ours.in_batches(ours._encode, ids, mask)
  compare.assert_parity(got, theirs_of(longer, ids, mask))


def test_layer_of_real_size(tmp_path):
  sizes = _encoders.metaclip()["sizes"] | dict(layers=1, vocabulary=99)
  activation = sizes.pop("activation")
  theirs = make_theirs(sizes, activation)
  ours = make_ours(sizes, activation, save(theirs, tmp_path), length=77)
  ids, mask = inputs(77)
  got = ours.in_batches(ours._encode, ids, mask)
  compare.assert_parity(got, theirs_of(theirs, ids, mask))


def test_preset_is_the_size_of_its_file():
  """Names and shapes alone: nothing of this size is made."""
  sizes = _encoders.metaclip()["sizes"]
  activation = sizes.pop("activation")
  with torch.device("meta"):
    theirs = make_theirs(sizes, activation).state_dict()
  network = make_ours(sizes, activation, "").network
  entries, ignored = names.table(theirs)
  tables.plan(entries, network.shapes, network.letters, theirs, ignored=ignored)


def test_name_of_every_tensor_of_a_whole_clip_is_known(tmp_path):
  theirs = make_theirs(SMALL, "gelu")
  config = transformers.CLIPConfig(
    text_config=theirs.config.to_dict(),
    vision_config=dict(
      hidden_size=8,
      intermediate_size=8,
      num_hidden_layers=1,
      num_attention_heads=2,
    ),
  )
  whole = transformers.CLIPModel(config)
  weights = save(whole, tmp_path)
  make_ours(SMALL, "gelu", weights).open_files()
  refused_for_activation_and_heads(weights)


def refused_for_activation_and_heads(weights):
  ours = make_ours(SMALL | dict(heads=4), "quick_gelu", weights)
  with pytest.raises(ValueError) as raised:
    ours.open_files()
  assert str(raised.value).endswith(
    "/config.json: num_attention_heads is 3: set sizes.heads to 3, not 4;"
    ' hidden_act is "gelu": set sizes.activation to "gelu", not "quick_gelu"'
  )


def test_what_no_shape_tells_is_read_where_transformers_saved_it(tmp_path):
  weights = save(make_theirs(SMALL, "gelu"), tmp_path)
  refused_for_activation_and_heads(weights)
  refused_for_activation_and_heads(f"{weights}/model.safetensors")
