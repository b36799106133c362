import dataclasses

import pytest

from mocha_jax.compilation import search, topology
from mocha_jax.models import flops
from tests.small_model import CONFIG

BIG = dataclasses.replace(
  CONFIG, layers=48, width=6144, ffn=16_384, heads=48, head=128
)
SIZES = search.Sizes(
  model=BIG,
  parameters=36_562_000_000,
  trained=36_562_000_000,
  forward=flops.flops(BIG, 1, 32, 32, 64, {"small_text": 768}),
  tokens=65_536,
  frames=32,
  clips=512,
)
POD = topology.parse("v5p-1024", 1)


def test_candidates_divide_all_that_a_mesh_must():
  for c in search.candidates(SIZES, POD, 512):
    assert c.fsdp * c.context * c.tensor == 512
    assert SIZES.frames % c.context == 0
    assert BIG.heads % (c.context * c.tensor) == 0
    assert c.fsdp * c.accumulate == 512


def test_candidates_may_fit_and_come_best_first():
  found = search.candidates(SIZES, POD, 512)
  assert all(c.bytes < POD.generation.hbm for c in found)
  seconds = [c.seconds for c in found]
  assert seconds == sorted(seconds)


def test_saving_attention_is_judged_better_than_saving_nothing():
  found = search.candidates(SIZES, POD, 512)
  of = lambda policy: min(c.seconds for c in found if c.remat == policy)
  assert of("attention") < of("full")


def test_nothing_is_judged_to_fit_a_pod_that_is_too_small():
  with pytest.raises(ValueError, match="nothing may fit v5e 2x2, 4 chips"):
    search.candidates(
      dataclasses.replace(SIZES, clips=4), topology.parse("v5e-4", 1), 4
    )


def test_batch_that_no_mesh_divides_is_refused():
  with pytest.raises(
    ValueError, match="no mesh of 512 devices divides 3 clips"
  ):
    search.candidates(dataclasses.replace(SIZES, clips=3), POD, 512)
