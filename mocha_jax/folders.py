"""Folders that appear when they are whole, or not at all."""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Iterator

from mocha_jax import locks, sigterm
from mocha_jax.launch import processes


@contextlib.contextmanager
def appearing_whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield a folder to write in, which gets its name when all is written.

  All processes of a run call it alike. If the body fails, or the process is
  told to end, nothing stays; after a kill that no process hears of, or a
  failure in another process, FOLDER.partial does, until the next call removes
  it.

  Raises:
    ValueError: the folder is there already, and not empty; or cannot be made,
      or another process of this machine is writing it.
  """
  whole = folder.absolute()
  partial = whole.parent / f"{whole.name}.partial"
  if processes.is_first():
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
      raise ValueError(f"{folder} is there already: choose another folder")
    try:
      held = _make_anew(partial)
    except OSError as error:
      raise ValueError(f"{folder} cannot be made: {error.strerror}") from error
  else:
    held = contextlib.nullcontext()
  with held:
    processes.meet(f"{folder} begun")
    try:
      with sigterm.raised():
        yield partial
      processes.meet(f"{folder} written")
      if processes.is_first():
        if folder.exists():
          folder.rmdir()
        partial.rename(folder)
    except BaseException as error:
      if processes.is_first():
        _remove(partial)
      if isinstance(error, OSError) and error.errno and not error.filename:
        error.filename = str(folder)  # A disk that is full, say.
      raise


def _make_anew(folder: pathlib.Path) -> contextlib.AbstractContextManager:
  """Make an empty folder; return what keeps other processes from doing so."""
  if folder.exists():  # Of one who was killed, or who writes it now.
    with locks.locked(folder):
      shutil.rmtree(folder)
  folder.mkdir(parents=True)
  return locks.locked(folder)


def _remove(folder: pathlib.Path) -> None:
  """Remove a folder in which threads may write for a moment yet."""
  for _ in range(5):
    shutil.rmtree(folder, ignore_errors=True)
    time.sleep(0.1)
