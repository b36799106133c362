"""How long each form takes on the device at hand, by the clock.

XLA's forms, the kernel where it runs, and beside them PyTorch's where that is
installed. They take turns, and the median counts, so that a machine that slows
down or speeds up meanwhile does so for all.
"""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import jax
import jax.numpy as jnp

from mocha_jax.kernels.speech_window.measure import forms
from mocha_jax.kernels.speech_window.shapes import Shape

ROUNDS = 15


def measure(of: Shape, passes: str) -> dict[str, float]:
  """Return the median of the seconds that each form takes."""
  names = list(forms.XLA_FORMS)
  if jax.default_backend() == "tpu":
    names += [forms.FOLDING, forms.KERNEL]
  runs = {name: _prepare(name, of, passes) for name in names}
  if find_spec("torch"):
    from mocha_jax.kernels.speech_window.measure import pytorch

    runs |= pytorch.prepare(of, passes)
  for run in runs.values():
    run()  # Compiles.
  times = {name: [] for name in runs}
  for _ in range(ROUNDS):
    for name, run in runs.items():
      start = time.perf_counter()
      run()
      times[name].append(time.perf_counter() - start)
  return {name: statistics.median(taken) for name, taken in times.items()}


def _prepare(name: str, of: Shape, passes: str) -> Callable[[], object]:
  """Return what runs a form once, to its end."""
  function, sizes = forms.build(forms.FORMS[name], of, passes)
  leaves, tree = jax.tree.flatten(sizes)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  args = tree.unflatten(
    # Of weights and tokens alike: the product of two is about as large.
    jax.random.normal(key, leaf.shape, jnp.float32).astype(leaf.dtype)
    / leaf.shape[-1] ** 0.5
    for key, leaf in zip(keys, leaves, strict=True)
  )
  jitted = jax.jit(function)
  return lambda: jax.block_until_ready(jitted(*args))
