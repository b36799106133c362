"""How runs start on many machines: processes, a JobSet, a Slurm script."""
