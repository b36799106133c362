"""What leaves for machines that do not have us: PyTorch and StableHLO."""
