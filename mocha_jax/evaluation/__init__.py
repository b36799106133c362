"""Scores of generated clips against the truth."""
