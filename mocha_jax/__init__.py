"""MoCha in JAX: movie-grade talking characters from text and speech.

One alphabet names every dimension, in shapes, einsums and sharding alike:

  B  batch                      f h w c  frames, height, width, channels
  T  video tokens (f * h * w)            of a latent or pixel grid
  S  speech tokens              N  attention heads
  R  tokens in a speech window  H  head width
  L  text tokens                D  model width
  E  width of encoder features  F  feed-forward width
"""
