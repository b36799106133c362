"""From mp4 files to batches: ingest, encode, mix, read."""
