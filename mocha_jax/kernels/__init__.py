"""Kernels, one folder each: reference, implementations, one door."""
