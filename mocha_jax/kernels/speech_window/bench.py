"""What a layer of speech-video window attention costs, form by form.

  python -m mocha_jax.kernels.speech_window.bench --shape mocha_30b --target v5p

The forms: as published, masked over all speech or gathered by window, and
collapsed, all in XLA and from projected speech; and the kernel, from folded
speech, beside it what XLA takes to fold. The floor is the least time of the
collapsed form by the peaks of matrix units and memory. What a TPU takes, its
compiler says; what this machine takes, a clock. All figures are per chip.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from mocha_jax import chips
from mocha_jax.kernels.speech_window import shapes
from mocha_jax.kernels.speech_window.measure import clock, compiler, forms
from mocha_jax.kernels.speech_window.shapes import Shape

PROGRAM = "python -m mocha_jax.kernels.speech_window.bench"
HERE = "here"
NO_COMPILER = "the TPU compiler is missing (pip install 'mocha_jax[tpu]')"
# The kernel first: it compiles in seconds.
COUNTED = (forms.KERNEL, *forms.XLA_FORMS)
Row = dict[str, Any]
# Key of a row, heading, format.
COLUMNS = (
  ("shape", "shape", "<16"),
  ("target", "target", "<7"),
  ("form", "form", "<18"),
  ("pass", "pass", "<7"),
  ("ms", "ms", ">9.3f"),
  ("floor_ms", "floor ms", ">8.3f"),
  ("ratio", "ratio", ">7.2f"),
  ("tflop", "TFLOP", ">8.3g"),
  ("hbm_gb", "HBM GB", ">8.3g"),
  ("fold_ms", "fold ms", ">7.3f"),
  ("by", "by", "<12"),
  ("compile_s", "compile s", ">9.1f"),
)


def main(argv: list[str] | None = None) -> None:
  """Print a row per shape, target, form and pass."""
  parser = argparse.ArgumentParser(
    prog=PROGRAM, description=(__doc__ or "").partition("\n")[0]
  )
  parser.add_argument(
    "--shape",
    choices=[of.name for of in shapes.BENCH],
    help=f"default: all, but by the clock of a CPU {shapes.TOY} alone",
  )
  parser.add_argument(
    "--target",
    choices=[*compiler.TARGETS, HERE],
    help="a TPU, by its compiler, or this machine, by the clock; default: all",
  )
  parser.add_argument(
    "--form",
    choices=COUNTED,
    help="for TPUs, default: all; each in XLA may compile for minutes",
  )
  parser.add_argument("--json", metavar="FILE", help="where rows are written")
  arguments = parser.parse_args(argv)
  targets = (
    [arguments.target] if arguments.target else [*compiler.TARGETS, HERE]
  )
  if targets != [HERE] and importlib.util.find_spec("libtpu") is None:
    if arguments.target:
      parser.error(f"--target {arguments.target}: {NO_COMPILER}")
    print(f"No TPUs below: {NO_COMPILER}.")
    targets = [HERE]
  print(_line({key: heading for key, heading, _ in COLUMNS}))
  rows = []
  for row in _rows(arguments.shape, targets, arguments.form):
    print(_line(row), flush=True)
    rows.append(row)
    if arguments.json:  # Anew each time: all rows may take hours.
      text = json.dumps({"rows": rows}, indent=1)
      pathlib.Path(arguments.json).write_text(text, encoding="utf-8")


def _line(row: Row) -> str:
  cells = []
  for key, _, form in COLUMNS:
    cell = row[key]
    if cell is None or isinstance(cell, str):
      form = form.partition(".")[0]
    cells.append(format("" if cell is None else cell, form))
  return "  ".join(cells).rstrip()


def _rows(
  shape: str | None, targets: list[str], form: str | None
) -> Iterator[Row]:
  with contextlib.ExitStack() as stack:
    cost = None
    for of in shapes.BENCH:
      if shape not in (of.name, None):
        continue
      for target in targets:
        if target != HERE:
          cost = cost or stack.enter_context(compiler.started())
          yield from _counted(of, target, cost, [form] if form else COUNTED)
        elif shape or of is shapes.TOY or jax.default_backend() != "cpu":
          yield from _timed(of)


def _counted(
  of: Shape, target: str, cost: compiler.Costs, named: Sequence[str]
) -> Iterator[Row]:
  for passes in forms.PASSES:
    chip = chips.TPUS[target]
    floor = shapes.floor_seconds(
      of,
      both=passes == "both",
      flops_per_second=chip.flops,
      bytes_per_second=chip.bandwidth,
    )
    for form in named:
      found = cost(of, target, form, passes)
      row = _row(of, target, form, passes) | dict(floor_ms=1e3 * floor)
      if found is None:
        yield row | dict(by="no room")
        continue
      row |= dict(
        ms=1e3 * found.seconds,
        ratio=found.seconds / floor,
        hbm_gb=found.moved / 1e9,
        by=found.bound,
        compile_s=found.compiling,
      )
      if form == forms.KERNEL:
        fold = cost(of, target, forms.FOLDING, passes)
        row |= dict(fold_ms=1e3 * fold.seconds if fold else None)
      yield row


def _timed(of: Shape) -> Iterator[Row]:
  kind = jax.devices()[0].device_kind
  for passes in forms.PASSES:
    for form, seconds in clock.measure(of, passes).items():
      yield _row(of, kind, form, passes) | dict(ms=1e3 * seconds, by="clock")


def _row(of: Shape, target: str, form: str, passes: str) -> Row:
  row: Row = dict.fromkeys(key for key, _, _ in COLUMNS)
  row |= {"shape": of.name, "target": target, "form": form, "pass": passes}
  known = forms.FORMS.get(form)
  if known is not None:
    row["tflop"] = known.flops(of, both=passes == "both") / 1e12
  return row


if __name__ == "__main__":
  main()
