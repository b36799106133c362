"""A folder to work in beside records, of which nothing stays when work ends."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from mocha_jax import locks, sigterm

STAGED = "staged"


@contextlib.contextmanager
def folder(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield <directory>/staged, empty; it is gone when the body has ended.

  So it is if the process is told to end. What one that was killed has left,
  the next removes. Of the processes of a machine one at a time may work there.

  Raises:
    ValueError: another one does.
  """
  directory.mkdir(parents=True, exist_ok=True)
  with locks.locked(directory):
    for left in directory.glob(f"{STAGED}*"):
      shutil.rmtree(left)
    stage = directory / STAGED
    stage.mkdir()
    try:
      with sigterm.raised():
        yield stage
    except OSError as error:
      if error.errno and not error.filename:
        error.filename = str(directory)  # A disk that is full, say.
      raise
    finally:
      # Threads that still write find no folder, and add nothing to this one.
      shutil.rmtree(stage.rename(directory / f"{STAGED}.removed"))


def move(stage: pathlib.Path, directory: pathlib.Path, *names: str) -> None:
  """Let what was staged take the place of what has the same names.

  The first is the first to go and the last to come: records, which say by
  being there that all is.
  """
  for name in names:
    if (directory / name).exists():
      (directory / name).rename(stage / f"{name}.replaced")
  for name in reversed(names):
    (stage / name).rename(directory / name)
