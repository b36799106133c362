import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from experiments import _encoders
from mocha_jax import sharding
from mocha_jax.encoders import t5
from mocha_jax.weights import t5 as names
from mocha_jax.weights import tables
from tests import numerics
from tests.parity import compare

VOCABULARY, LENGTH = 300, 40
SMALL = dict(
  layers=3,
  width=24,
  ffn=40,
  heads=3,
  head=10,
  vocabulary=VOCABULARY,
  buckets=32,
  distance=128,
)
KINDS = dict(
  umt5=dict(positions="per_layer", activation="gelu_tanh"),
  byt5=dict(positions="shared", activation="gelu_tanh"),
  ul2=dict(positions="shared", activation="silu"),
)


def make_theirs(kind, sizes):
  """The encoder of transformers, with random weights of a trained one's size.

  Its own start has layers that hardly matter: what they add is small.
  """
  is_umt5 = kind == "umt5"
  config = (transformers.UMT5Config if is_umt5 else transformers.T5Config)(
    vocab_size=sizes["vocabulary"],
    d_model=sizes["width"],
    d_kv=sizes["head"],
    d_ff=sizes["ffn"],
    num_layers=sizes["layers"],
    num_heads=sizes["heads"],
    relative_attention_num_buckets=sizes["buckets"],
    relative_attention_max_distance=sizes["distance"],
    feed_forward_proj="gated-silu" if kind == "ul2" else "gated-gelu",
    dropout_rate=0.0,
  )
  cls = (
    transformers.UMT5EncoderModel if is_umt5 else transformers.T5EncoderModel
  )
  torch.manual_seed(0)
  model = cls(config).eval()
  with torch.no_grad():
    for name, x in model.named_parameters():
      if "relative_attention_bias" in name:
        x.normal_()
      elif x.ndim == 1:
        x.copy_(1 + 0.2 * torch.randn_like(x))
      elif "embed" not in name and "shared" not in name:
        x.normal_(std=x.shape[1] ** -0.5)
        if name.endswith((".q.weight", ".k.weight")):
          x.mul_(sizes["head"] ** -0.25)  # Scores are not divided later.
  return model


def save(model, folder):
  model.save_pretrained(folder)
  return str(folder)


def make_ours(kind, sizes, weights, dtype="float32", length=LENGTH):
  config = t5.T5Config(
    name=kind,
    sizes=t5.T5Sizes(**sizes, **KINDS[kind]),
    weights=weights,
    tokenizer="bytes",
    length=length,
    cut=False,
    dtype=dtype,
    batch_size=2,
  )
  return t5.T5Text(config)


def inputs(length=LENGTH, vocabulary=VOCABULARY):
  rng = np.random.default_rng(0)
  ids = rng.integers(3, vocabulary, (2, length)).astype(np.int32)
  mask = np.arange(length) < [[length], [length // 3]]
  return ids, mask


def theirs_of(model, ids, mask):
  with torch.no_grad():
    return model(
      torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
    ).last_hidden_state


@pytest.mark.parametrize("length", [7, 130, 512])
def test_buckets(length):
  attention = make_theirs("byt5", SMALL).encoder.block[0].layer[0].SelfAttention
  offset = torch.arange(length)[None] - torch.arange(length)[:, None]
  want = attention._relative_position_bucket(offset)
  np.testing.assert_array_equal(t5.buckets(length, 32, 128), want)


@pytest.mark.parametrize("kind", KINDS)
def test_layer(kind, tmp_path):
  theirs = make_theirs(kind, SMALL)
  ours = make_ours(kind, SMALL, save(theirs, tmp_path))
  model = ours.network.bind(ours.params)
  ids, mask = inputs()
  with torch.no_grad():
    x = theirs.shared(torch.from_numpy(ids).long())
    hidden = torch.where(torch.from_numpy(mask), 0.0, -1e30)[:, None, None]
    attention = theirs.encoder.block[0].layer[0].SelfAttention
    bias = attention.compute_bias(LENGTH, LENGTH)
    normed = theirs.encoder.block[0].layer[0].layer_norm(x)
    want = dict(
      attention=by_hand(attention, normed, bias + hidden),
      mlp=theirs.encoder.block[1].layer[1].DenseReluDense(x),
    )
  first, second = block(model, 0), block(model, 1)
  bucket = t5.buckets(LENGTH, 32, 128)
  positions = model.positions if kind != "umt5" else first.positions
  offsets = positions[...][bucket].transpose(2, 0, 1)[None]
  y, hears = jnp.asarray(x), jnp.asarray(mask)[:, None, None]
  got = dict(
    attention=first.attention(
      first.attention_norm(y), offsets=offsets, mask=hears
    ),
    mlp=second.mlp(y),
  )
  compare.assert_parity(got, want)


def by_hand(attention, x, offsets):
  """The attention of transformers, whose own call differs from kind to kind."""
  heads = lambda linear: linear(x).unflatten(2, (attention.n_heads, -1))
  query, key, value = map(heads, (attention.q, attention.k, attention.v))
  scores = torch.einsum("blnh,bsnh->bnls", query, key) + offsets
  out = torch.einsum("bnls,bsnh->blnh", scores.softmax(-1), value)
  return attention.o(out.flatten(2))


def block(model, i):
  graph, layers = nnx.split(model.blocks)
  return nnx.merge(graph, jax.tree.map(lambda x: x[i], layers))


@pytest.mark.parametrize("kind", KINDS)
def test_encoder(kind, tmp_path):
  """The padding of theirs is not looked at: ours has zeros there."""
  theirs = make_theirs(kind, SMALL)
  weights = save(theirs, tmp_path)
  ids, mask = inputs()
  shown = mask[..., None]
  exact = theirs_of(theirs, ids, mask).numpy() * shown
  ours = make_ours(kind, SMALL, weights)
  got = ours.in_batches(ours._encode, ids, mask)
  compare.assert_parity(got, exact)
  ours = make_ours(kind, SMALL, weights, dtype="bfloat16")
  half = theirs_of(theirs.bfloat16(), ids, mask).float().numpy() * shown
  got = ours.in_batches(ours._encode, ids, mask)
  compare.assert_bfloat16_parity(got, half, exact)


PRESETS = dict(
  umt5=_encoders.umt5_xxl, byt5=_encoders.byt5_small, ul2=_encoders.ul2
)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_of_real_size(kind, tmp_path):
  """On one device, as eight would each gather a gigabyte of weights."""
  sizes = PRESETS[kind]()["sizes"] | dict(layers=1, vocabulary=320)
  theirs = make_theirs(kind, sizes)
  weights = save(theirs, tmp_path)
  sizes = {k: v for k, v in sizes.items() if k not in KINDS[kind]}
  ids, mask = inputs(16, vocabulary=320)
  exact = theirs_of(theirs, ids, mask).numpy() * mask[..., None]
  del theirs
  ours = make_ours(kind, sizes, weights, length=16)
  one = sharding.MeshConfig(1, 1, 1, 1, 1)
  ours.mesh = sharding.make_mesh(one, jax.devices()[:1])
  compare.assert_parity(ours.in_batches(ours._encode, ids, mask), exact)


@pytest.mark.parametrize("kind", PRESETS)
def test_presets_are_the_sizes_of_their_files(kind):
  """Names and shapes alone: nothing of this size is made."""
  section = PRESETS[kind]()
  sizes, positions = section["sizes"], section["sizes"]["positions"]
  encoder = t5.T5Text(t5.T5Config(**section | dict(sizes=t5.T5Sizes(**sizes))))
  with torch.device("meta"):
    theirs = make_theirs(kind, sizes).state_dict()
  entries, ignored = names.table(theirs, shared=positions == "shared")
  network = encoder.network
  tables.plan(entries, network.shapes, network.letters, theirs, ignored=ignored)


def test_name_of_every_tensor_of_a_whole_model_is_known(tmp_path):
  theirs = make_theirs("byt5", SMALL)
  whole = transformers.T5ForConditionalGeneration(theirs.config)
  ours = make_ours("byt5", SMALL, save(whole, tmp_path))
  ours.check_files()


@pytest.mark.parametrize("kind, other", [("ul2", "byt5"), ("byt5", "ul2")])
def test_what_no_shape_tells_is_read_where_transformers_saved_it(
  kind, other, tmp_path
):
  theirs = make_theirs(kind, SMALL)
  ours = make_ours(other, SMALL | dict(distance=99), save(theirs, tmp_path))
  with pytest.raises(ValueError) as raised:
    ours.check_files()
  right, wrong = (KINDS[x]["activation"] for x in (kind, other))
  assert str(raised.value).endswith(
    f': set sizes.activation to "{right}", not "{wrong}";'
    " relative_attention_max_distance is 128: set sizes.distance to 128, not 99"
  )


@pytest.mark.parametrize("heads, head", [(6, 5), (5, 6)])
def test_shapes_tell_how_many_heads_there_are(heads, head, tmp_path):
  theirs = make_theirs("umt5", SMALL)
  sizes = SMALL | dict(heads=heads, head=head)
  ours = make_ours("umt5", sizes, save(theirs, tmp_path))
  with pytest.raises(ValueError, match=r"misshapen .*relative_attention_bias"):
    ours.check_files()


def test_wans_own_names(tmp_path):
  theirs = make_theirs("umt5", SMALL)
  ours = make_ours("umt5", SMALL, save(theirs, tmp_path))
  renamed = {
    wans_name(name): x
    for name, x in theirs.state_dict().items()
    if name != "encoder.embed_tokens.weight"
  }
  torch.save(renamed, tmp_path / "x.pth")
  (tmp_path / "config.json").write_text('{"model_type": "t2v"}')
  again = make_ours("umt5", SMALL, str(tmp_path / "x.pth"))
  numerics.assert_same(again.params, ours.params)


POSITIONS = "pos_embedding.embedding"


def wans_name(name):
  for theirs, wans in (
    ("shared", "token_embedding"),
    ("encoder.final_layer_norm", "norm"),
    ("encoder.block", "blocks"),
    (
      "layer.0.SelfAttention.relative_attention_bias",
      "pos_embedding.embedding",
    ),
    ("layer.0.SelfAttention", "attn"),
    ("layer.0.layer_norm", "norm1"),
    ("layer.1.layer_norm", "norm2"),
    ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
    ("layer.1.DenseReluDense.wi_1", "ffn.fc1"),
    ("layer.1.DenseReluDense.wo", "ffn.fc2"),
  ):
    name = name.replace(theirs, wans)
  return name


def test_bytes_are_those_of_transformers(tmp_path):
  theirs = transformers.ByT5Tokenizer()
  ours = make_ours("byt5", SMALL, "")
  for prompt in ("", "Grüße, 世界!", " two  blanks\n"):
    ids, mask = ours.tokens(prompt)
    assert ids[mask].tolist() == theirs(prompt).input_ids
