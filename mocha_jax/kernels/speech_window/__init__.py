"""Speech-video window attention (MoCha, section 3.2)."""
