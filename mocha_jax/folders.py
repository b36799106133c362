"""Folders that appear when they are whole, or not at all."""

import contextlib
import pathlib
import shutil
import signal
import sys
import threading
from collections.abc import Iterator

from mocha_jax.launch import processes


@contextlib.contextmanager
def appearing_whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield a folder to write in, which gets its name when all is written.

  All processes of a run call it alike. If the body fails, or the process is
  told to end, nothing stays; after a kill that no process hears of,
  FOLDER.partial does, until the next call removes it.

  Raises:
    ValueError: the folder is there already, and not empty.
  """
  partial = folder.with_name(f"{folder.name}.partial")
  if processes.is_first():
    if folder.exists() and any(folder.iterdir()):
      raise ValueError(f"{folder} is there already: choose another folder")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
  processes.meet(f"{folder} begun")
  try:
    with _ending_in_order():
      yield partial
    processes.meet(f"{folder} written")
    if processes.is_first():
      if folder.exists():
        folder.rmdir()
      partial.rename(folder)
  except BaseException:
    if processes.is_first():
      shutil.rmtree(partial, ignore_errors=True)
    raise


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
  """Let SIGTERM raise SystemExit, so that what was begun is cleaned up."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
