"""SIGTERM as an exception, so that what was begun is cleaned up."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def raised() -> Iterator[None]:
  """Let SIGTERM raise SystemExit in the body; of the main thread alone."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
