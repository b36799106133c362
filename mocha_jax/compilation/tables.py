"""The figures of `mocha compile` as tables for a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mocha_jax.compilation.report import Report

# Per clip, and per layer where marked; see `models.flops`.
_FORMULAS = {
  "self_attention": "8 T D A per layer",
  "self_attention_scores": "4 T T A per layer",
  "text_attention": "4 (T D + L D + T L) A per layer",
  "speech_attention": "4 (S D A + f R D A + T R N D) per layer",
  "mlp": "6 T D F per layer; Wan: 4 T D F",
  "patches": "4 T C D",
  "modulation": "2 (256 D + 9 D D); Wan: 7 D D",
  "text_projection": "2 L E D; Wan: 2 L (E + D) D",
  "speech_projection": "2 S (E P + P D)",
}
_GIB = 2**30
_BAR = 24


def show(report: Report) -> RenderableType:
  """Lay one report out."""
  parts: list[RenderableType] = [_head(report), _model(report)]
  if report.fits:
    parts += [
      _memory(report),
      _work(report),
      _collectives(report),
      _time(report),
    ]
  parts.append(_footnotes(report))
  return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def compare(reports: Sequence[Report]) -> Table:
  """Lay reports side by side, a line per figure."""
  table = _table("figure", *(r.config for r in reports))
  rows = {
    "topology": lambda r: r.topology,
    "mesh": _mesh,
    "remat": lambda r: r.remat,
    "clips a step, at a time": lambda r: (
      f"{r.batch_size:,}, {r.batch_size // r.accumulate:,}"
    ),
    "fits": _fits,
    "peak memory per chip": lambda r: _gib(r.peak_hbm_bytes),
    "  of it activations": lambda r: _gib(r.memory.get("activations")),
    "recomputed": lambda r: _percent(r.recomputed_share),
    "exposed collectives": lambda r: _percent(r.exposed_collective_share),
    "step": lambda r: _seconds(r.step_seconds),
    "predicted MFU": lambda r: _percent(r.predicted_mfu),
    "bound by": lambda r: r.bound or "-",
    "compiled in": lambda r: _seconds(r.compile_seconds),
  }
  for name, read in rows.items():
    table.add_row(name, *(read(r) for r in reports))
  return table


def _head(report: Report) -> Panel:
  facts = Table.grid(padding=(0, 3))
  facts.add_row("fits", _fits(report))
  if report.fits:
    facts.add_row("predicted MFU", f"[bold]{_percent(report.predicted_mfu)}[/]")
    facts.add_row("step", _seconds(report.step_seconds))
    facts.add_row("bound by", report.bound or "")
    facts.add_row(
      "recomputed", f"{_percent(report.recomputed_share)} of forward"
    )
    facts.add_row(
      "exposed collectives",
      f"{_percent(report.exposed_collective_share)} of the step",
    )
  facts.add_row("mesh", _mesh(report))
  at_a_time = report.batch_size // report.accumulate
  facts.add_row(
    "batch",
    f"{report.batch_size:,} clips of {report.tokens:,} tokens, "
    f"{at_a_time:,} at a time",
  )
  facts.add_row("parameters", f"{report.parameters / 1e9:.3f} B")
  facts.add_row("compiled in", _seconds(report.compile_seconds))
  color = "green" if report.fits else "red"
  title = f"[bold]{report.config}[/] on {report.topology}"
  return Panel(facts, title=title, border_style=color, box=box.ROUNDED)


def _model(report: Report) -> Table:
  total = sum(report.model_flops.values())
  table = _table(
    "model FLOPs", "PFLOP a step", "share", "", "forward, per clip"
  )
  for part, flops in sorted(
    report.model_flops.items(), key=lambda item: -item[1]
  ):
    share = flops / total
    formula = _FORMULAS.get(part, "")
    table.add_row(
      part, f"{flops / 1e15:,.1f}", _percent(share), _bar(share), formula
    )
  table.add_section()
  table.add_row("forward and backward", f"{total / 1e15:,.1f}", "", "", "")
  return table


def _memory(report: Report) -> Table:
  table = _table("memory per chip", "GiB", "", "")
  for kind, size in report.memory.items():
    if kind != "host" and size:
      share = size / report.hbm_bytes
      table.add_row(kind, f"{size / _GIB:.2f}", _percent(share), _bar(share))
  table.add_section()
  peak = report.peak_hbm_bytes or 0.0
  share = peak / report.hbm_bytes
  limit = f"peak, of {report.hbm_bytes / _GIB:.2f}"
  table.add_row(limit, f"{peak / _GIB:.2f}", _percent(share), _bar(share))
  if host := report.memory.get("host"):
    table.add_row("in the host's memory", f"{host / _GIB:.2f}", "", "")
  return table


def _work(report: Report) -> Table:
  table = _table("work per chip", "phase", "TFLOP", "GB", "s", "of peak", "")
  step = report.step_seconds or 1.0
  for row in sorted(report.work, key=lambda row: -row.seconds):
    if row.seconds < step / 1000:
      continue
    table.add_row(
      row.part,
      row.phase,
      f"{row.flops / 1e12:,.1f}" if row.flops else "",
      f"{row.bytes / 1e9:,.1f}",
      f"{row.seconds:.3f}",
      _percent(row.of_peak) if row.flops else "",
      _bar(row.seconds / step),
    )
  return table


def _collectives(report: Report) -> Table:
  table = _table("collectives", "over", "times", "GB", "s", "exposed s", "")
  step = report.step_seconds or 1.0
  for row in sorted(report.collectives, key=lambda row: -row.seconds):
    table.add_row(
      row.kind,
      row.axes,
      f"{row.count:,}",
      f"{row.bytes / 1e9:,.2f}",
      f"{row.seconds:.3f}",
      f"{row.exposed_seconds:.3f}",
      _bar(row.exposed_seconds / step),
    )
  return table


def _time(report: Report) -> Table:
  table = _table("time", "alone, s", "adds to the step, s", "", "")
  step = report.step_seconds or 1.0
  for name, seconds in report.time.items():
    share = seconds.added / step
    table.add_row(
      name,
      f"{seconds.alone:.3f}",
      f"{seconds.added:.3f}",
      _percent(share),
      _bar(share),
    )
  table.add_section()
  table.add_row("step", "", f"{step:.3f}", "", "")
  return table


def _footnotes(report: Report) -> Text:
  lines = [
    report.why_not,
    report.formula,
    f"peak {report.peak_flops / 1e12:g} TFLOP/s and "
    f"{report.hbm_bandwidth / 1e9:g} GB/s a chip, ICI "
    f"{report.ici_link_bandwidth / 1e9:.3g} GB/s a link and way, DCN "
    f"{report.dcn_bandwidth / 1e9:g} GB/s a chip: see "
    "mocha_jax/compilation/topology.py",
    f"efficiency of matrix products {report.efficiency:.1%}: "
    f"{report.efficiency_source}; of kernels no more than that, nor than the "
    "bundles of their final schedule allow",
    "T, S, L tokens of video, speech, text; A = N H; see mocha_jax/models/"
    "flops.py",
  ]
  if report.compiler_estimate_seconds:
    lines.append(
      "the compiler's own estimate of the cycles: "
      f"{report.compiler_estimate_seconds:.3f} s of work"
    )
  return Text("\n".join(line for line in lines if line), style="dim")


def _table(*columns: str) -> Table:
  table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
  for index, column in enumerate(columns):
    left = index == 0 or column in ("", "phase", "over", "forward, per clip")
    table.add_column(
      column, justify="left" if left else "right", no_wrap=not index
    )
  return table


def _bar(share: float) -> Text:
  eighths = round(max(0.0, min(1.0, share)) * _BAR * 8)
  full, rest = divmod(eighths, 8)
  return Text("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else ""), style="cyan")


def _mesh(report: Report) -> str:
  used = [f"{axis} {n}" for axis, n in report.mesh.items() if n > 1]
  return " x ".join(used) or "1 device"


def _fits(report: Report) -> str:
  if not report.fits:
    return "[bold red]no[/]"
  return (
    f"[bold green]yes[/], {_gib(report.peak_hbm_bytes)} of "
    f"{_gib(report.hbm_bytes)}"
  )


def _gib(size: float | None) -> str:
  return "-" if size is None else f"{size / _GIB:.1f} GiB"


def _percent(share: float | None) -> str:
  return "-" if share is None else f"{share:.1%}"


def _seconds(seconds: float | None) -> str:
  return (
    "-"
    if seconds is None
    else f"{seconds:.3g} s"
    if seconds < 100
    else f"{seconds:.0f} s"
  )
