"""Folders that appear when they are whole, or not at all."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from mocha_jax import sigterm
from mocha_jax.launch import processes


@contextlib.contextmanager
def appearing_whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield a folder to write in, which gets its name when all is written.

  All processes of a run call it alike. If the body fails, or the process is
  told to end, nothing stays; after a kill that no process hears of, or a
  failure in another process, FOLDER.partial does, until the next call removes
  it.

  Raises:
    ValueError: the folder is there already, and not empty; or cannot be made.
  """
  whole = folder.absolute()
  partial = whole.parent / f"{whole.name}.partial"
  if processes.is_first():
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
      raise ValueError(f"{folder} is there already: choose another folder")
    shutil.rmtree(partial, ignore_errors=True)
    try:
      partial.mkdir(parents=True)
    except OSError as error:
      raise ValueError(f"{folder} cannot be made: {error.strerror}") from error
  processes.meet(f"{folder} begun")
  try:
    with sigterm.raised():
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
