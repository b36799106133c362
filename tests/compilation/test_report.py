import dataclasses
import io
import json

import pytest
from rich.console import Console

from mocha_jax.compilation import report, tables

KEYS = {
  "fits",
  "peak_hbm_bytes",
  "predicted_mfu",
  "compile_seconds",
  "recomputed_share",
  "exposed_collective_share",
}

FITS = report.Report(
  config="mocha_30b",
  topology="v5p 8x8x8, 512 chips",
  chips=512,
  mesh={"slice": 1, "fsdp": 64, "context": 8},
  batch_size=512,
  accumulate=8,
  layers=48,
  tokens=65_536,
  remat="attention",
  parameters=36_562_000_000,
  model_flops={"self_attention_scores": 3e18, "mlp": 1e18},
  peak_flops=459e12,
  hbm_bytes=95 * 2**30,
  hbm_bandwidth=2765e9,
  ici_link_bandwidth=86e9,
  dcn_bandwidth=6.25e9,
  efficiency=0.923,
  efficiency_source="someone's measurement",
  compile_seconds=123.0,
  fits=True,
  peak_hbm_bytes=47.5 * 2**30,
  memory={"parameters": 2**30, "activations": 40 * 2**30, "host": 2**31},
  hardware_flops=5e18,
  recomputed_share=0.08,
  work=(
    report.Work("mlp", "forward", 1e15, 1e12, 3.0, 0.7),
    report.Work("patches", "forward", 1e9, 1e6, 1e-6, 0.1),
  ),
  collectives=(report.Collective("all-gather", "fsdp", 96, 1e11, 0.5, 0.25),),
  time={"compute": report.Seconds(9.0, 9.0), "ICI": report.Seconds(1.0, 0.25)},
  step_seconds=10.0,
  compiler_estimate_seconds=9.5,
  exposed_collective_share=0.025,
  predicted_mfu=0.66,
  bound="compute, 90% of the step",
)
NOT = dataclasses.replace(
  FITS,
  config="mocha_4b",
  fits=False,
  why_not="Ran out of memory",
  peak_hbm_bytes=None,
  memory={},
  work=(),
  collectives=(),
  time={},
  step_seconds=None,
  compiler_estimate_seconds=None,
  predicted_mfu=None,
  recomputed_share=None,
  exposed_collective_share=None,
  bound=None,
)


def shown(what) -> str:
  console = Console(file=io.StringIO(), width=120)
  console.print(what)
  return console.file.getvalue()  # pyright: ignore


@pytest.mark.parametrize("made", [FITS, NOT], ids=["fits", "does not"])
def test_json_is_read_back_as_it_was(made):
  assert report.from_json(made.to_json()) == made
  assert set(json.loads(made.to_json())) >= KEYS


def test_table_tells_the_verdict_the_formula_and_the_sources():
  text = shown(tables.show(FITS))
  for said in (
    "mocha_30b on v5p 8x8x8, 512 chips",
    "yes, 47.5 GiB of 95.0 GiB",
    "66.0%",
    "fsdp 64 x context 8",
    "max(FLOPs / (peak x efficiency), bytes /",
    "someone's measurement",
    "4 T T A per layer",
    "all-gather",
    "in the host's memory",
  ):
    assert said in text, said
  assert "patches" not in text  # Under a thousandth of the step.


def test_table_of_what_does_not_fit_says_why():
  text = shown(tables.show(NOT))
  assert "no" in text
  assert "Ran out of memory" in text


def test_comparison_has_a_column_for_each():
  text = shown(tables.compare([FITS, NOT]))
  line = next(l for l in text.splitlines() if "predicted MFU" in l)
  assert line.split()[-2:] == ["66.0%", "-"]
