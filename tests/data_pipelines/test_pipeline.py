import collections
import itertools
import json
import re
from typing import Any

import jax
import numpy as np
import pytest

from data_pipelines import encode, mixture, pipeline, records
from data_pipelines.mixture import DataConfig
from mocha_jax.sections import section
from tests import numerics

COUNTS = dict(text_only=7, close_up=20, medium=11)
STAGES: tuple[dict[str, Any], ...] = (
  dict(steps=3, weights=dict(text_only=1.0)),
  dict(steps=5, weights=dict(text_only=0.2, close_up=0.8)),
  dict(steps=1, weights=dict(text_only=0.2, close_up=0.3, medium=0.5)),
)


def record(kind, index, frames=2):
  """A clip that says in its latents which one it is."""
  number = index + 100 * list(COUNTS).index(kind)
  return dict(
    name=f"{kind}_{index}",
    kind=kind,
    prompt="A man.",
    latents=np.full((frames, 1, 1, 2), number, np.float16),
    speech=np.full((4, 3), number, np.float16),
    text={"small_text": np.array([1, 2 + number, 0], np.int32)},
    text_mask={"small_text": np.array([True, True, False])},
  )


def write(root, splits):
  records.write(
    root / "encoded",
    splits,
    kind="encoded",
    metadata={},
    text={"small_text": 0},
  )
  np.savez(
    root / "encoded" / encode.NULL_TEXT,
    **{
      "text/small_text": np.array([1, 0, 0], np.int32),
      "text_mask/small_text": np.array([True, False, False]),
    },
  )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  splits = {
    f"train_{kind}": [record(kind, i) for i in range(count)]
    for kind, count in COUNTS.items()
  }
  write(folder, splits)
  return folder


def make_config(root, **changes):
  given = dict(
    root=str(root), batch_size=8, text_dropout=0.25, workers=0, stages=STAGES
  )
  return section(DataConfig, given | changes, "data")


def take(batches, count):
  return list(itertools.islice(batches, count))


def test_batch_is_float32_of_the_asked_size(root):
  batch = next(pipeline.batches(make_config(root), seed=0))
  assert batch.latents.shape == (8, 2, 1, 1, 2)
  assert batch.condition.speech.shape == (8, 4, 3)
  assert batch.latents.dtype == batch.condition.speech.dtype == np.float32
  assert batch.condition.text["small_text"].dtype == np.int32
  assert batch.condition.text_mask["small_text"].dtype == np.bool_
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(batch))


def test_all_of_a_sample_belongs_together(root):
  config = make_config(root, text_dropout=0.0)
  for batch in take(pipeline.batches(config, seed=0), 12):
    number = batch.latents[:, 0, 0, 0, 0]
    condition = batch.condition
    np.testing.assert_array_equal(condition.speech[:, 0, 0], number)
    np.testing.assert_array_equal(
      condition.text["small_text"][:, 1], number + 2
    )


def test_workers_change_nothing(root):
  alone = pipeline.batches(make_config(root), seed=1)
  helped = pipeline.batches(make_config(root, workers=2), seed=1)
  for want, got in zip(take(alone, 12), take(helped, 12), strict=True):
    numerics.assert_same(got, want)


@pytest.mark.parametrize(
  "rows", [(0, 1, 2, 3), (4, 5, 6, 7), (2, 3, 6, 7), (5,)], ids=str
)
def test_rows_are_those_of_the_whole_batch(root, rows):
  config = make_config(root)
  alone = take(pipeline.batches(config, seed=1), 12)
  parts = take(pipeline.batches(config, seed=1, rows=rows), 12)
  for want, got in zip(alone, parts, strict=True):
    numerics.assert_same(got, jax.tree.map(lambda x: x[list(rows)], want))


@pytest.mark.parametrize(
  "workers, done", [(0, 0), (0, 2), (0, 3), (0, 9), (2, 3)]
)
def test_resumed_batches_are_bitwise_the_same(root, workers, done):
  config = make_config(root, workers=workers)
  through = pipeline.batches(config, seed=1)
  take(through, done)
  state = json.loads(json.dumps(through.get_state()))
  resumed = pipeline.batches(config, seed=1)
  resumed.set_state(state)
  assert resumed.get_state() == state
  for want, got in zip(take(through, 6), take(resumed, 6), strict=True):
    numerics.assert_same(got, want)


def test_batches_can_go_back(root):
  batches = pipeline.batches(make_config(root), seed=1)
  state = batches.get_state()
  first = take(batches, 4)
  batches.set_state(state)
  for want, got in zip(first, take(batches, 4), strict=True):
    numerics.assert_same(got, want)


def test_state_can_go_on_with_other_rows_and_workers(root):
  alone = pipeline.batches(make_config(root), seed=1)
  take(alone, 4)
  share = pipeline.batches(
    make_config(root, workers=2), seed=1, rows=range(4, 8)
  )
  share.set_state(alone.get_state())
  assert share.get_state() == alone.get_state()
  want, got = take(alone, 5), take(share, 5)
  for batch, half in zip(want, got, strict=True):
    numerics.assert_same(half, jax.tree.map(lambda x: x[4:], batch))


@pytest.mark.parametrize(
  "changes, seed, message",
  [
    (dict(), 2, "seed=1, but these batches are of seed=2"),
    (dict(batch_size=16), 1, "batch_size=8, but .* batch_size=16"),
  ],
)
def test_state_of_other_batches_is_refused(root, changes, seed, message):
  state = pipeline.batches(make_config(root), seed=1).get_state()
  other = pipeline.batches(make_config(root, **changes), seed=seed)
  with pytest.raises(ValueError, match=message):
    other.set_state(state)


def test_seed_settles_the_order(root):
  def numbers(seed):
    batch = next(pipeline.batches(make_config(root), seed=seed))
    return batch.latents[:, 0, 0, 0, 0].tolist()

  assert numbers(0) == numbers(0)
  assert numbers(0) != numbers(1)


def test_every_epoch_has_each_clip_once_in_a_new_order(root):
  stages = [dict(steps=1, weights=dict(close_up=1.0))]
  config = make_config(root, stages=stages, batch_size=20, text_dropout=0.0)
  epochs = [
    tuple(batch.latents[:, 0, 0, 0, 0])
    for batch in take(pipeline.batches(config, seed=0), 3)
  ]
  assert all(sorted(epoch) == list(range(100, 120)) for epoch in epochs)
  assert len(set(epochs)) == 3


def test_shares_of_the_kinds_follow_the_weights_stage_by_stage(root):
  samples = 10_000
  stages = [stage | dict(steps=samples // 40) for stage in STAGES]
  config = make_config(root, batch_size=40, stages=stages)
  places: Any = mixture.order(config, COUNTS, seed=0)
  for number, stage in enumerate(STAGES):
    first = number * samples
    kinds = [places[first + i][0] for i in range(samples)]
    for part in (kinds[:100], kinds[-100:], kinds):
      counts = collections.Counter(part)
      assert counts.keys() == stage["weights"].keys()
      for kind, weight in stage["weights"].items():
        assert abs(counts[kind] - len(part) * weight) <= 2


def test_last_stage_goes_on(root):
  batches = pipeline.batches(make_config(root), seed=0)
  batches.set_state({"batches": 10**9, "seed": 0, "batch_size": 8})
  numbers = next(batches).latents[:, 0, 0, 0, 0]
  assert (numbers >= 200).any()  # Clips of the last stage's own kind.


def test_weight_of_zero_leaves_a_kind_out(root):
  stages = [dict(steps=1, weights=dict(close_up=1.0, two_shot=0.0))]
  config = make_config(root, stages=stages)
  for batch in take(pipeline.batches(config, seed=0), 3):
    assert (batch.latents // 100 == 1).all()


def test_dropped_prompts_are_the_empty_one_at_the_asked_rate(root):
  config = make_config(root, batch_size=500)
  text = next(pipeline.batches(config, seed=0)).condition
  ids, mask = text.text["small_text"], text.text_mask["small_text"]
  dropped = ids[:, 1] == 0
  assert 90 < dropped.sum() < 160  # 125 expected, deviation 10.
  np.testing.assert_array_equal(ids[dropped], [[1, 0, 0]] * dropped.sum())
  np.testing.assert_array_equal(mask.sum(1), np.where(dropped, 1, 2))
  none = next(
    pipeline.batches(make_config(root, text_dropout=0.0), seed=0)
  ).condition
  assert (none.text["small_text"][:, 1] > 0).all()


def test_dropout_differs_from_epoch_to_epoch(root):
  stages = [dict(steps=1, weights=dict(close_up=1.0))]
  config = make_config(root, stages=stages, batch_size=20, text_dropout=0.5)
  dropped = []
  for batch in take(pipeline.batches(config, seed=0), 3):
    gone = batch.condition.text["small_text"][:, 1] == 0
    dropped.append(tuple(sorted(batch.latents[gone, 0, 0, 0, 0])))
  assert len(set(dropped)) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_clip_of_another_shape_is_named(tmp_path, workers):
  clips = [record("close_up", i, frames=3 if i == 2 else 2) for i in range(3)]
  write(tmp_path, {"train_close_up": clips})
  stages = [dict(steps=1, weights=dict(close_up=1.0))]
  config = make_config(tmp_path, stages=stages, workers=workers, batch_size=3)
  message = r"must have one shape: latents of 'close_up_.' are \[[23], 1, 1, 2]"
  with pytest.raises(Exception, match=message):
    next(pipeline.batches(config, seed=0))


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(batch_size=0), "batch_size=0 must be at least 1"),
    (dict(text_dropout=1.5), "text_dropout=1.5 must be 0..1"),
    (dict(workers=-1), "workers=-1"),
    (dict(stages=()), "stages must not be empty"),
    (dict(stages=[dict(weights=dict(a=1.0))]), "stages[0].steps is missing"),
    (dict(stages=[dict(steps=0, weights=dict(a=1.0))]), "steps=0"),
    (
      dict(stages=[dict(steps=1, weights=dict(a=0.5, b=0.4))]),
      "stages[0]: weights must sum to 1, not 0.9",
    ),
    (
      dict(stages=[dict(steps=1, weights=dict(a=1.5, b=-0.5))]),
      "weights must not be negative: {'b': -0.5}",
    ),
  ],
)
def test_config_is_checked(root, changes, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make_config(root, **changes)


def test_kind_without_clips_is_refused_naming_those_with(root):
  stages = (*STAGES, dict(steps=1, weights=dict(close_upp=1.0)))
  config = make_config(root, stages=stages)
  with pytest.raises(
    ValueError,
    match=r"stages\[3\].weights.close_upp = 1.0, but .* train_close_upp in"
    r" .*encoded; it has close_up, medium, text_only$",
  ):
    pipeline.batches(config, seed=0)


def test_missing_records_are_named(tmp_path):
  with pytest.raises(ValueError, match="encoded"):
    pipeline.batches(make_config(tmp_path), seed=0)
