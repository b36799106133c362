"""Cartoon Talkers: procedural talking characters with real speech."""
