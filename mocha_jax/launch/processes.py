"""How the processes of a run find each other, agree, and end together.

Who they are is said by flags, or else by the cluster, as JAX detects it: Cloud
TPU, GKE (also under JobSet and XPK), Slurm, Open MPI. Without either a run is
one process, and what is here for several does nothing.

They talk through the key-value store of JAX's coordinator, which process 0
runs: no device takes part, so it works while devices wait for each other. What
goes wrong in one process is put there; a thread of every other process asks
for it, says it, and ends that process.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax

# Private to JAX, and used here alone: which cluster this is, and the client of
# the coordinator.
from jax._src import distributed
from jax._src.clusters import ClusterEnv

_FAILURE = "mocha/failure"
_PATIENCE = 3600.0  # Seconds for which processes wait for each other.
_EVERY = 1.0  # Seconds after which a process asks whether another failed.
_FAREWELL = 3.0  # Seconds for the others to hear of a failure.

_LINE = 300  # Letters of what another library says.

_ending = threading.Lock()


def join(
  coordinator: str | None, processes: int | None, process: int | None
) -> None:
  """Join the other processes of this run, before JAX is used.

  coordinator: HOST:PORT where process 0 can be reached; process: of 0 ..
    processes - 1. All three, or none to have them detected.

  Raises:
    ValueError: only some are given, or they do not fit.
  """
  local = None
  if coordinator is None and processes is None and process is None:
    coordinator, processes, process, local = (
      ClusterEnv.auto_detect_unset_distributed_params(
        *(None,) * 5, initialization_timeout=300
      )
    )
    if coordinator is None:
      return
  if coordinator is None or processes is None or process is None:
    raise ValueError(
      f"--coordinator {coordinator} --processes {processes} --process "
      f"{process}: give all three, or none to have them detected"
    )
  _check(coordinator, processes, process)
  jax.distributed.initialize(
    *(coordinator, processes, process, local),
    cluster_detection_method="deactivate",
  )
  if process == 0:
    print(f"{processes} processes, coordinator {coordinator}")


def _check(coordinator: str, processes: int, process: int) -> None:
  host, colon, port = coordinator.rpartition(":")
  if not (host and colon and port.isdecimal()):
    raise ValueError(
      f"--coordinator {coordinator} must be HOST:PORT of process 0"
    )
  if not 0 <= process < processes:
    raise ValueError(
      f"--process {process} must be 0 to {processes - 1}, as there are "
      f"--processes {processes}"
    )


def is_first() -> bool:
  """Return whether this is the process that writes what only one may write."""
  return jax.process_index() == 0


def from_first(what: str, make: Callable[[], str]) -> str:
  """Return, on every process, what `make` returns on process 0.

  It is called there alone, while the others wait. what: names it; once a run.
  """
  client = _client()
  if client is None:
    return make()
  if is_first():
    text = make()
    client.key_value_set(f"mocha/{what}", text)
    return text
  return client.blocking_key_value_get(f"mocha/{what}", int(1e3 * _PATIENCE))


def agree(what: str, here: str) -> None:
  """Make sure that all processes have the same.

  Raises:
    ValueError: this one has something else than process 0.
  """
  there = from_first(what, lambda: here)
  if here != there:
    raise ValueError(
      f"{what} {here} here, but {there} on process 0: all processes must have "
      "the same"
    )


def meet(where: str) -> None:
  """Wait here until all processes have come; where: names it, once a run."""
  client = _client()
  if client is not None:
    client.wait_at_barrier(f"mocha/{where}", int(1e3 * _PATIENCE))


def _client() -> Any:
  """Return the client of the coordinator; None in a run of one process."""
  return distributed.global_state.client if jax.process_count() > 1 else None


@contextlib.contextmanager
def hearing_sigterm() -> Iterator[Callable[[], bool]]:
  """Let the body ask whether SIGTERM has come, which does not end it meanwhile.

  A second one does. Where there is a coordinator, that hears it for all, and
  here the answer is no.
  """
  told = threading.Event()
  if distributed.global_state.client is not None:
    yield told.is_set
    return

  def hear(*_: Any) -> None:
    told.set()
    signal.signal(signal.SIGTERM, before)

  before = signal.signal(signal.SIGTERM, hear)
  try:
    yield told.is_set
  finally:
    signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def ending_together(
  verb: str, describe: Callable[[BaseException], str | None]
) -> Iterator[None]:
  """End all processes, with one line each, when the body fails in one.

  describe: says in a line what the user can change; None if the fault is ours,
    of which the process that failed shows a traceback.
  """
  client = _client()
  if client is None:
    yield
    return
  over = threading.Event()
  ear = threading.Thread(target=_listen, args=(client, over))
  ear.start()
  try:
    yield
    over.set()
    ear.join()
  except BaseException as error:
    here, there = jax.process_index(), jax.process_count()
    line = describe(error)
    trace = "" if line else "".join(traceback.format_exception(error))
    line = line or _shortened(f"{type(error).__name__}: {error}")
    _end(client, f"{verb}: process {here} of {there}: {line}", trace)


def _shortened(text: str) -> str:
  """Return the beginning of a text, in one line."""
  text = " ".join(text.split())
  return text if len(text) <= _LINE else f"{text[:_LINE]} ..."


def _listen(client: Any, over: threading.Event) -> None:
  """Ask for the failure of another process, and end this one with it."""
  while not over.wait(_EVERY):
    try:
      line = client.key_value_try_get(_FAILURE)
    except Exception:  # Nothing is there.
      continue
    _ending.acquire()
    _leave(line)


def _end(client: Any, line: str, trace: str) -> None:
  """Tell the others what went wrong here, unless they have told us."""
  _ending.acquire()
  try:
    client.key_value_set(_FAILURE, line)
  except Exception:  # Another was first: what failed here, failed through it.
    line = client.blocking_key_value_get(_FAILURE, 1000)
  else:
    sys.stderr.write(trace)
    time.sleep(_FAREWELL)  # Else the others would ask why it is gone.
  _leave(line)


def _leave(line: str) -> None:
  """End this process at once: others will not come to a meeting any more."""
  print(line, file=sys.stderr, flush=True)
  sys.stdout.flush()
  if is_first():
    time.sleep(_FAREWELL)  # Nobody is heard without the coordinator.
  os._exit(2)
