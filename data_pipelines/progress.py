"""How far work has come: a bar in a terminal, nothing elsewhere."""

from collections.abc import Iterable
from typing import TypeVar

import rich
import rich.progress

T = TypeVar("T")


def track(items: Iterable[T], title: str, *, total: int) -> Iterable[T]:
  """Pass items on; show how many of `total` there were."""
  console = rich.get_console()
  return rich.progress.track(
    items,
    title,
    total=total,
    console=console,
    transient=True,
    disable=not console.is_terminal,
  )
