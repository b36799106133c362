"""Sizes and layers of the networks."""
