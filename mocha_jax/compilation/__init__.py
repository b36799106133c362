"""The train step compiled for pods that are not there, and what it tells."""
