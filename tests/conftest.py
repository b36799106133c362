"""What every test runs on: the CPU, seen by JAX as eight devices.

Every call of the functions that compute is checked against the shapes and
types that they are annotated with.
"""

import os

import jaxtyping

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

# Not where callers' mistakes are refused with errors of our own, and not the
# dataclasses that are pytrees: jax.tree.map fills those with anything.
CHECKED = [
  "mocha_jax.decode",
  "mocha_jax.diffusion",
  "mocha_jax.kernels",
  "mocha_jax.media",
  "mocha_jax.models",
]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")
