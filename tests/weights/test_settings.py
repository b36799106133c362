import json

import pytest

from mocha_jax.weights import settings

MODEL = dict(
  heads=4, head=24, speech=dict(edge="clip"), lora=dict(rank=0, alpha=2.0)
)


@pytest.fixture
def check(tmp_path):
  path = tmp_path / "config.json"

  def check(told: str | dict) -> None:
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    settings.check(path, MODEL)

  return check


@pytest.mark.parametrize(
  "told",
  [
    dict(num_attention_heads=4, attention_head_dim=24),  # diffusers'.
    dict(model_type="t2v", num_heads=4, model="t2v-1.3B"),  # Wan's own.
    dict(heads=4, head=24, speech_edge="clip"),  # What export writes.
    dict(model=MODEL, train={}),
    dict(model=MODEL | dict(lora=dict(rank=0, alpha=9.0))),
    {},
  ],
)
def test_same_settings_and_strangers_are_taken(check, told):
  check(told)


@pytest.mark.parametrize(
  ("told", "said"),
  [
    (dict(num_attention_heads=2), "num_attention_heads = 2, .*heads = 4$"),
    (dict(num_heads=2), "num_heads = 2, the config has config.model.heads = 4"),
    (dict(speech_edge="shift"), "speech_edge = 'shift', .*edge = 'clip'$"),
    (dict(model=MODEL | dict(head=48)), "have head = 48, .*model.head = 24$"),
    (
      dict(model=MODEL | dict(lora=dict(rank=1, alpha=9.0))),
      "lora.alpha = 9.0, .*model.lora.alpha = 2.0$",
    ),
  ],
)
def test_others_are_refused(check, tmp_path, told, said):
  with pytest.raises(ValueError, match=f"^{tmp_path}.*: these weights.*{said}"):
    check(told)


@pytest.mark.parametrize(("told", "said"), [("{", "JSON"), ("[]", "no config")])
def test_a_damaged_file_is_named(check, tmp_path, told, said):
  with pytest.raises(ValueError, match=f"^{tmp_path}.*config.json is .*{said}"):
    check(told)
