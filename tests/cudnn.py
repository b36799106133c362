"""Tracing cuDNN's attention where there is no GPU: its checks say there is."""

import contextlib
from collections.abc import Iterator
from unittest import mock

_CHECKS = "jax._src.cudnn.fused_attention_stablehlo."


@contextlib.contextmanager
def traced_anywhere() -> Iterator[None]:
  """Let programs with cuDNN's attention be traced, not run, as for an H100."""
  with (
    mock.patch(f"{_CHECKS}check_cudnn_version", lambda: 91_100),
    mock.patch(f"{_CHECKS}check_compute_capability", lambda _: True),
    mock.patch(f"{_CHECKS}is_cuda_compute_capability_equal", lambda _: False),
  ):
    yield
