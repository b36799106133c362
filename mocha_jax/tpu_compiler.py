"""The compiler for TPUs where there is none: how it starts, what it writes.

libtpu compiles on any x86-64 Linux. It reads its environment once, when it is
loaded, and writes down the final schedule of all that it compiles, if told to:
VLIW bundles, each of which is a cycle when nothing stalls.
"""

import os
import pathlib
import re

# It starts without a TPU, or the service that would describe one.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5p-8",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
  "TPU_LOG_DIR": "disabled",
}

# One bundle of the final schedule: `0x26 LB: > { ... }`, > per loop around it.
_BUNDLE = re.compile(
  r"\s*(?:0x)?[0-9a-f]+\s+(?:[A-Z]{2})?\s*:\s*((?:> ?)*){(})?"
)
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder %\S+, (\S+) /\* loop exit test")
_SUFFIX = "-final_bundles.txt"


def prepare_environment() -> None:
  """Let libtpu start on a machine without TPUs; call it before JAX starts.

  What the environment already says stays, but for the platform.
  """
  for key, value in _ENVIRONMENT.items():
    os.environ.setdefault(key, value)
  os.environ["JAX_PLATFORMS"] = "cpu"


def dump_to(folder: pathlib.Path) -> None:
  """Have libtpu, not yet started, write its final schedules to a folder."""
  flags = (
    os.environ.get("LIBTPU_INIT_ARGS", ""),
    f"--xla_jf_dump_to={folder}",
    "--xla_jf_dump_llo_text=true",
    "--xla_jf_dump_llo_pass_label_regex=final_bundles",
  )
  os.environ["LIBTPU_INIT_ARGS"] = " ".join(flags).strip()


def schedules(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Return the final schedules in a folder by the names of instructions."""
  names = (
    (re.fullmatch(rf"\d+-(.+)-\d+{_SUFFIX}", file.name), file)
    for file in folder.glob(f"*{_SUFFIX}")
  )
  return {name[1]: file for name, file in names if name}


def executed(schedule: pathlib.Path) -> int:
  """Count the bundles of a schedule, each as often as its loops run.

  Raises:
    ValueError: a loop does not run a constant number of times.
  """
  text = schedule.read_text(encoding="utf-8", errors="replace")
  rows: list[tuple[int, str | None]] = []  # How deep in loops, and their ends.
  for line in text.splitlines():
    if bundle := _BUNDLE.match(line):
      end = _EXIT.search(line)
      before, depth = rows[-1][0] if rows else 0, bundle[1].count(">")
      # Neither an empty bundle nor the branch that closes a loop is marked;
      # they stand where the one before does.
      if bundle[2]:
        depth = before
      elif "sbr.rel" in line:
        depth = max(before, depth)
      rows.append((depth, end[1] if end else None))
  return _executed(rows, 0)


def _executed(rows: list[tuple[int, str | None]], depth: int) -> int:
  """Count rows that lie this deep or deeper, once through."""
  count, start = 0, 0
  while start < len(rows):
    if rows[start][0] <= depth:
      count, start = count + 1, start + 1
      continue
    end = start
    while end < len(rows) and rows[end][0] > depth:
      end += 1
    loop = rows[start:end]
    ends = [limit for d, limit in loop if limit and d == depth + 1]
    if len(ends) != 1 or not ends[0].isdecimal():
      raise ValueError(f"a loop ends at {ends}: not after a constant number")
    count += int(ends[0]) * _executed(loop, depth + 1)
    start = end
  return count
