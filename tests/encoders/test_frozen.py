"""Settings beside weights, which no tensor's shape tells."""

import json
import pathlib
import shutil

import pytest

from mocha_jax import encoders
from tests import frozen_encoders

SECTIONS = dict(
  wav2vec2=frozen_encoders.WAV2VEC2,
  umt5=frozen_encoders.UMT5,
  ul2=frozen_encoders.UL2,
  clip_text=frozen_encoders.CLIP,
)
# What transformers writes of each, and what else stands there.
T5 = dict(
  feed_forward_proj="gated-gelu",
  relative_attention_max_distance=16,
  layer_norm_epsilon=1e-6,
  num_decoder_layers=2,
)
RIGHT = dict(
  wav2vec2=dict(
    model_type="wav2vec2",
    num_attention_heads=3,
    conv_stride=[5, 2, 2, 2, 2, 2, 2],
    feat_extract_norm="group",
    feat_extract_activation="gelu",
    do_stable_layer_norm=False,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
    layerdrop=0.1,
  ),
  umt5=T5 | dict(model_type="umt5"),
  ul2=T5 | dict(model_type="t5", feed_forward_proj="gated-silu"),
  clip_text=dict(
    model_type="clip_text_model",
    num_attention_heads=2,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    eos_token_id=2,
  ),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """Sections with weights, without a config.json."""
  return {
    name: frozen_encoders.with_weights(section, tmp_path_factory.mktemp(name))
    for name, section in SECTIONS.items()
  }


@pytest.fixture
def check(weights, tmp_path):
  """Check the files of an encoder beside a config.json of some text."""

  def check(name, text):
    folder = tmp_path / name
    shutil.copytree(weights[name]["weights"], folder)
    (folder / "config.json").write_text(text, encoding="utf-8")
    (index,) = folder.glob("*.index.json")
    for path in (folder, index):
      section = SECTIONS[name] | dict(weights=str(path))
      encoders.check_files([frozen_encoders.make(section)])

  return check


@pytest.mark.parametrize("name", SECTIONS)
def test_settings_that_fit_are_taken_and_so_are_weights_without(
  name, weights, check
):
  assert not pathlib.Path(weights[name]["weights"], "config.json").exists()
  encoders.check_files([frozen_encoders.make(weights[name])])
  check(name, json.dumps(RIGHT[name]))


WRONG = [
  (
    "wav2vec2",
    dict(num_attention_heads=6),
    "num_attention_heads is 6: set sizes.heads to 6, not 3",
  ),
  (
    "wav2vec2",
    dict(conv_stride=[5, 2, 2, 2, 2, 2, 1]),
    "conv_stride is [5, 2, 2, 2, 2, 2, 1]: set sizes.strides to"
    " [5, 2, 2, 2, 2, 2, 1], not [5, 2, 2, 2, 2, 2, 2]",
  ),
  (
    "wav2vec2",
    dict(do_stable_layer_norm=True, feat_extract_norm="layer"),
    'feat_extract_norm is "layer", but only "group" is provided for;'
    " do_stable_layer_norm is true, but only false is provided for",
  ),
  (
    "wav2vec2",
    dict(hidden_act="relu"),
    'hidden_act is "relu", but only "gelu" is provided for',
  ),
  (
    "wav2vec2",
    dict(feat_extract_activation="relu"),
    'feat_extract_activation is "relu", but only "gelu" is provided for',
  ),
  (
    "wav2vec2",
    dict(layer_norm_eps=1e-12),
    "layer_norm_eps is 1e-12, but only 1e-05 is provided for",
  ),
  (
    "umt5",
    dict(feed_forward_proj="gated-silu"),
    'feed_forward_proj is "gated-silu": set sizes.activation to "silu", not'
    ' "gelu_tanh"',
  ),
  (
    "ul2",
    dict(feed_forward_proj="gated-relu"),
    'feed_forward_proj is "gated-relu", but only "gated-gelu" or "gated-silu"'
    " is provided for",
  ),
  (
    "ul2",
    dict(model_type="mt5", relative_attention_max_distance=99),
    "relative_attention_max_distance is 99: set sizes.distance to 99, not 16",
  ),
  (
    "umt5",
    dict(layer_norm_epsilon=1e-5),
    "layer_norm_epsilon is 1e-05, but only 1e-06 is provided for",
  ),
  (
    "clip_text",
    dict(hidden_act="gelu", num_attention_heads=4),
    "num_attention_heads is 4: set sizes.heads to 4, not 2; hidden_act is"
    ' "gelu": set sizes.activation to "gelu", not "quick_gelu"',
  ),
  (
    "clip_text",
    dict(hidden_act="gelu_new"),
    'hidden_act is "gelu_new", but only "gelu" or "quick_gelu" is provided for',
  ),
  (
    "clip_text",
    dict(layer_norm_eps=None),
    "layer_norm_eps is null, but only 1e-05 is provided for",
  ),
]


@pytest.mark.parametrize("name, changes, message", WRONG)
def test_settings_of_another_network_are_refused(
  name, changes, message, check, tmp_path
):
  with pytest.raises(ValueError) as raised:
    check(name, json.dumps(RIGHT[name] | changes))
  path = tmp_path / name / "config.json"
  assert str(raised.value) == (
    f"weights of the encoder {name!r}: {path}: {message}"
  )


@pytest.mark.parametrize(
  "name, config",
  [
    ("umt5", dict(model_type="t2v", num_heads=12, layer_norm_epsilon=1)),
    ("umt5", dict(_class_name="X", feed_forward_proj="relu")),
    ("clip_text", RIGHT["wav2vec2"]),
    ("clip_text", dict(model_type="x", text_config=RIGHT["wav2vec2"])),
    ("clip_text", dict(model_type="x", text_config="y")),
    *((name, dict(model_type=x["model_type"])) for name, x in RIGHT.items()),
  ],
)
def test_what_others_say_does_not_disturb_nor_what_is_not_said(
  name, config, check
):
  check(name, json.dumps(config))


@pytest.mark.parametrize(
  "text, message",
  [
    ('{"model_type": "umt5', r"config\.json is not JSON: Unterminated string"),
    ("[1]", r"config\.json is no config: it holds no settings"),
  ],
)
def test_damaged_settings_are_refused(text, message, check):
  with pytest.raises(ValueError, match=rf"^weights of .* /.*{message}"):
    check("umt5", text)


CLIP = RIGHT["clip_text"]


@pytest.mark.parametrize(
  "config",
  [
    dict(model_type="clip", text_config=CLIP),
    dict(model_type="x", text_config=CLIP),
    dict(model_type="clip", text_config=dict(num_attention_heads=2)),
    dict(
      model_type="clip",
      text_config=dict(num_attention_heads=4),
      text_config_dict=CLIP,
    ),
  ],
)
def test_settings_of_a_part_that_fit_are_taken(config, check):
  check("clip_text", json.dumps(config))


@pytest.mark.parametrize(
  "config, message",
  [
    (
      dict(model_type="x", text_config=CLIP | dict(hidden_act="gelu")),
      'hidden_act is "gelu"',
    ),
    # Without them, transformers takes its defaults.
    (
      dict(model_type="clip", text_config=None),
      "num_attention_heads is left out, so 8: set sizes.heads to 8, not 2",
    ),
    (
      dict(model_type="clip", text_config=CLIP, text_config_dict=dict(a=1)),
      "num_attention_heads is left out, so 8",
    ),
  ],
)
def test_settings_of_a_part_that_do_not_fit_are_refused(config, message, check):
  with pytest.raises(ValueError, match=message):
    check("clip_text", json.dumps(config))
