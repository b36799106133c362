"""What a form of window attention costs: by the TPU's compiler, or a clock."""
