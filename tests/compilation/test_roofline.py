import pathlib

import pytest

from mocha_jax.compilation import hlo, roofline, topology
from mocha_jax.compilation.network import Collective
from tests import hlo_texts

V5P = topology.parse("v5p-8", 1).generation
PRODUCT = 2 * 1024 * 512 * 256 / (V5P.flops * V5P.matmul.share)
GATHER = 5 * PRODUCT


class Wires:
  """Every collective takes as long."""

  devices_per_chip = 1

  def __init__(self, seconds: float):
    self.seconds = seconds

  def collective(self, kind, instruction, computation) -> Collective:
    del instruction, computation
    return Collective(kind, "fsdp", 1.0, self.seconds, 0.0)

  def between_slices(self, kind, sent) -> Collective:
    return Collective(kind, "slice", sent, 0.0, self.seconds)


def predict(text: str, wires: Wires) -> roofline.Time:
  return roofline.predict(hlo.parse(text), V5P, wires, pathlib.Path("nowhere"))  # pyright: ignore


@pytest.fixture
def time() -> roofline.Time:
  return predict(hlo_texts.LAYERS, Wires(GATHER))


def test_work_is_told_by_part_and_phase_and_counts_every_turn(time):
  flops = {key: work.flops for key, work in time.work.items() if work.flops}
  once = 2 * 1024 * 512 * 256
  assert flops == {
    ("self_attention", "forward"): 4 * once,
    ("mlp", "forward"): 4 * once,
  }


def test_each_instruction_takes_the_longer_of_compute_and_memory(time):
  work = time.work["mlp", "forward"]
  moved = 2 * (1024 * 512 + 512 * 256 + 1024 * 256) / V5P.hbm_bandwidth
  assert work.memory == pytest.approx(4 * moved)
  assert work.compute == pytest.approx(4 * PRODUCT)
  assert work.seconds == pytest.approx(4 * max(PRODUCT, moved))


def test_synchronous_collective_is_exposed_whole(time):
  scattered = time.collectives["reduce-scatter", "fsdp"]
  assert scattered.count == 4
  assert scattered.exposed == pytest.approx(4 * GATHER)


def test_fused_collective_is_covered_by_what_carries_it_alone(time):
  gathered = time.collectives["all-gather", "fsdp"]
  carried = time.work["self_attention", "forward"].seconds
  # Of the two in each turn one is synchronous; `other` lies between start and
  # end of the other, but does not carry it.
  assert gathered.count == 8
  assert gathered.exposed == pytest.approx(4 * 2 * GATHER - carried)


# TPU7x gathers on its SparseCores, beside all that the main cores compute.
ON_SPARSECORE = """
%called (g.0: bf16[64,256]) -> bf16[512,256] {
  %g.0 = bf16[64,256]{1,0} parameter(0)
  ROOT %g.1 = bf16[512,256]{1,0} all-gather(%g.0), channel_id=3, replica_groups=mesh['a'=8] {'a'}, dimensions={0}
}, execution_thread="sparsecore"

ENTRY %main (a: bf16[64,256], x: bf16[1024,512], w: bf16[512,256]) -> bf16[512,256] {
  %a = bf16[64,256]{1,0} parameter(0)
  %x = bf16[1024,512]{1,0} parameter(1)
  %w = bf16[512,256]{1,0} parameter(2)
  %begin = ((bf16[64,256]{1,0}), bf16[512,256]{1,0}) call-start(%a), async_execution_thread="sparsecore", to_apply=%called
  %y = bf16[1024,256]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
  %on = ((bf16[64,256]{1,0}), bf16[512,256]{1,0}) call-update(%begin), to_apply=%called
  ROOT %end = bf16[512,256]{1,0} call-done(%on)
}
"""  # noqa: E501


def test_collective_of_another_thread_is_covered_by_all_that_is_computed():
  time = predict(ON_SPARSECORE, Wires(GATHER))
  gathered = time.collectives["all-gather", "fsdp"]
  (work,) = time.work.values()
  assert gathered.count == 1
  assert gathered.exposed == pytest.approx(GATHER - work.seconds)


def test_exposed_is_never_less_than_nothing():
  short = predict(hlo_texts.LAYERS, Wires(PRODUCT / 100))
  gathered = short.collectives["all-gather", "fsdp"]
  assert gathered.exposed == pytest.approx(4 * PRODUCT / 100)


def test_step_is_work_and_what_is_exposed(time):
  work = sum(work.seconds for work in time.work.values())
  assert time.seconds == pytest.approx(work + time.exposed + time.copies)


def test_collective_that_runs_by_itself_is_covered_by_all_that_follows():
  text = """
%add (l: f32[], r: f32[]) -> f32[] {
  %l = f32[] parameter(0)
  %r = f32[] parameter(1)
  ROOT %s = f32[] add(%l, %r)
}

ENTRY %main (a: bf16[1024,512], b: bf16[512,256]) -> bf16[1024,256] {
  %a = bf16[1024,512]{1,0:S(1)} parameter(0)
  %b = bf16[512,256]{1,0:S(1)} parameter(1)
  %begin = bf16[1024,512]{1,0} all-reduce-start(%a), to_apply=%add
  %c = bf16[1024,256]{1,0:S(1)} convolution(%a, %b), dim_labels=bf_io->bf
  ROOT %end = bf16[1024,512]{1,0} all-reduce-done(%begin)
}
"""
  sent = predict(text, Wires(3 * PRODUCT)).collectives["all-reduce", "fsdp"]
  assert sent.exposed == pytest.approx(2 * PRODUCT)


def test_transfer_between_slices_is_covered_until_it_is_received():
  text = """
ENTRY %main (a: bf16[1024,512], b: bf16[512,256]) -> bf16[1024,512] {
  %a = bf16[1024,512]{1,0:S(1)} parameter(0)
  %b = bf16[512,256]{1,0:S(1)} parameter(1)
  %t = token[] after-all()
  %s = (bf16[1024,512], u32[], token[]) send(%a, %t), HOW
  %r = (bf16[1024,512], u32[], token[]) recv(%t), HOW
  %s.1 = token[] send-done(%s)
  %c = bf16[1024,256]{1,0:S(1)} convolution(%a, %b), dim_labels=bf_io->bf
  %r.1 = (bf16[1024,512], token[]) recv-done(%r)
  ROOT %end = bf16[1024,512] get-tuple-element(%r.1), index=0
}
"""
  how = (
    'frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",'
    '_xla_megascale_transfer_type="ALL_REDUCE"}'
  )
  sent = predict(text.replace("HOW", how), Wires(3 * PRODUCT))
  assert sent.collectives["all-reduce", "slice"].dcn == 3 * PRODUCT
  assert sent.exposed == pytest.approx(2 * PRODUCT)


@pytest.mark.parametrize(
  ("scope", "phase"),
  [
    ("jit(step)/jvp()/while/body/mlp/dot_general", "forward"),
    ("jit(step)/transpose(jvp())/while/body/checkpoint/mlp/dot", "backward"),
    (
      "jit(step)/transpose(jvp())/while/body/checkpoint/"
      "rematted_computation/mlp/dot",
      "recomputed",
    ),
    ("jit(step)/optimizer/mul", "optimizer"),
  ],
)
def test_phase_is_read_from_where_an_instruction_comes_from(scope, phase):
  text = hlo_texts.LAYERS.replace(
    "jit(step)/jvp()/while/body/mlp/dot_general", scope
  )
  phases = {
    p for (_, p), work in predict(text, Wires(0)).work.items() if work.flops
  }
  assert phase in phases
