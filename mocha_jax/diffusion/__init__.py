"""Flow matching: path, loss, guidance, sampling."""
