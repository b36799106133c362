"""Folders that one process of a machine writes at a time."""

import contextlib
import fcntl
import os
import pathlib


def locked(folder: pathlib.Path) -> contextlib.ExitStack:
  """Lock a folder, now and until the end of the context or of the process.

  Raises:
    ValueError: another process of this machine has locked it.
  """
  opened = contextlib.ExitStack()
  descriptor = os.open(folder, os.O_RDONLY)
  opened.callback(os.close, descriptor)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    opened.close()
    raise ValueError(f"{folder}: another process is writing it") from None
  except OSError:
    pass  # A file system without locks.
  return opened
