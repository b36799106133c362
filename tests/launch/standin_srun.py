"""Stands in for Slurm's srun: starts SLURM_NTASKS real processes here.

Each is told what Slurm would tell it. As with --kill-on-bad-exit=1, which must
be asked for, the first that fails ends the others.
"""

import os
import subprocess
import sys
import time

option, *command = sys.argv[1:]
assert option == "--kill-on-bad-exit=1", sys.argv
tasks = int(os.environ["SLURM_NTASKS"])
steps = [
  subprocess.Popen(
    command,
    env=os.environ
    | {
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_PROCID": str(task),
      "SLURM_LOCALID": str(task),
    },
  )
  for task in range(tasks)
]
while any(step.poll() is None for step in steps):
  if any(step.poll() for step in steps):
    time.sleep(10)
    for step in steps:
      step.kill()
  time.sleep(0.1)
sys.exit(max(abs(step.wait()) for step in steps))
