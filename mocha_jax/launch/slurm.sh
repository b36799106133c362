#!/bin/bash
# `mocha train` on GPUs under Slurm: a process for each GPU.
#
#   sbatch --nodes=4 slurm.sh --config mocha_4b --run /shared/runs/mocha_4b
#
# What follows the script goes to `mocha train`; `mocha` must be on the PATH, as
# in an activated virtual environment, and the run's folder on storage that all
# nodes share. JAX finds the processes by what Slurm tells each of them.
#SBATCH --job-name=mocha
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
# Five minutes before the time is over all processes save the same step and end.
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
exec srun --kill-on-bad-exit=1 mocha train "$@"
