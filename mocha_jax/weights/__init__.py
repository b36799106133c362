"""Other people's checkpoints and ours: files, and tables of names."""
