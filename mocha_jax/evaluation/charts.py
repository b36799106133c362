"""Line charts as inline SVG, coloured by the page's style sheet."""

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24  # Margins in pixels.


def lines(
  series: Mapping[str, Points],
  *,
  size: tuple[int, int],
  y_range: tuple[float, float] | None,
  y_log: bool,
  title: str,
) -> str:
  """Draw named series over one x axis; each gets the class `line <name>`.

  y_range None fits the data. Points that are not finite (or, on a logarithmic
  axis, not above 0) break the line. Returns "" if no point is left.
  """
  drawn = {
    name: [
      (x, y) for x, y in points if math.isfinite(y) and (y > 0 or not y_log)
    ]
    for name, points in series.items()
  }
  everything = [point for points in drawn.values() for point in points]
  if not everything:
    return ""
  width, height = size
  xs = [x for x, _ in everything]
  low, high = y_range or _fitted([y for _, y in everything], y_log=y_log)
  scale = math.log10 if y_log else float
  span_x = (max(xs) - min(xs)) or 1.0
  span_y = (scale(high) - scale(low)) or 1.0

  def place(x: float, y: float) -> tuple[float, float]:
    across = (x - min(xs)) / span_x
    up = (scale(min(max(y, low), high)) - scale(low)) / span_y
    return (
      _LEFT + across * (width - _LEFT - _RIGHT),
      height - _BOTTOM - up * (height - _TOP - _BOTTOM),
    )

  parts = [
    f'<svg viewBox="0 0 {width} {height}" role="img"'
    f' aria-label="{html.escape(title)}">'
  ]
  for tick in _ticks(low, high, y_log=y_log, most=max(2, height // 50)):
    _, y = place(min(xs), tick)
    parts.append(
      f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}"'
      f' y1="{y:.1f}" y2="{y:.1f}"/>'
      f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}"'
      f' text-anchor="end">{tick:g}</text>'
    )
  for tick in _ticks(min(xs), max(xs), y_log=False, most=5):
    x, _ = place(tick, low)
    parts.append(
      f'<text class="tick" x="{x:.1f}" y="{height - 6}"'
      f' text-anchor="middle">{tick:g}</text>'
    )
  for name, points in drawn.items():
    path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
    parts.append(
      f'<polyline class="line {html.escape(name)}" points="{path}"/>'
    )
  return "".join([*parts, "</svg>"])


def smoothed(points: Points, *, span: int) -> list[tuple[float, float]]:
  """Average y exponentially over about `span` points."""
  result: list[tuple[float, float]] = []
  average, weight = 0.0, 0.0
  for x, y in points:
    if math.isfinite(y):
      average += (y - average) / span
      weight += (1 - weight) / span  # So that the start is not pulled to 0.
      result.append((x, average / weight))
  return result


def thinned(points: Points, most: int) -> list[tuple[float, float]]:
  """Keep at most about `most` points, evenly, the last among them."""
  every = max(1, math.ceil(len(points) / most))
  return list(points[::-1][::every][::-1])


def _fitted(values: Sequence[float], *, y_log: bool) -> tuple[float, float]:
  low, high = min(values), max(values)
  if y_log:
    return low / 1.1, high * 1.1
  margin = 0.05 * (high - low) or 1.0
  return low - margin, high + margin


def _ticks(low: float, high: float, *, y_log: bool, most: int) -> list[float]:
  """Round numbers within the range, few more than `most`."""
  if y_log:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    steps = [m * 10.0**d for d in decades for m in (1, 2, 3, 5, 7)]
    return [s for s in steps if low <= s <= high]
  if high <= low:
    return [low]
  rough = (high - low) / most
  unit = 10.0 ** math.floor(math.log10(rough))
  step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= rough)
  first, last = math.ceil(low / step), math.floor(high / step + 1e-9)
  return [round(n * step, 10) for n in range(first, last + 1)]
