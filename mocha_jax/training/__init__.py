"""The train state, its step, the loop around it, its checkpoints."""
