"""Tensors in files of PyTorch's own, mapped into memory; none of it is run."""
# pyright: reportMissingImports=false

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from mocha_jax.weights.tables import Index

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_PLAIN = ("bool", "uint8", "int8", "int16", "int32", "int64")
_PLAIN += ("float16", "float32", "float64")
_DTYPES = {name: np.dtype(name) for name in _PLAIN}
_DTYPES |= {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class InPickle:
  """A tensor of PyTorch."""

  tensor: Any
  dtype: np.dtype

  @property
  def shape(self) -> tuple[int, ...]:
    """Its whole shape."""
    return tuple(self.tensor.shape)

  def read(self, index: Index = ()) -> np.ndarray:
    """Return a part of it."""
    import torch

    part = self.tensor[index]
    if self.dtype == ml_dtypes.bfloat16:
      return part.contiguous().view(torch.int16).numpy().view(self.dtype)
    return part.numpy()


def open_tensors(path: pathlib.Path) -> dict[str, InPickle]:
  """Find the tensors of a file, by name.

  The file is a dict of tensors, or has one among its values, as
  {"state_dict": {...}, "epoch": 3}.

  Raises:
    ValueError: it is another, or holds what is no tensor, or of no known type.
  """
  found: dict[str, InPickle] = {}
  for name, tensor in _dict_of_tensors(path, _load(path)).items():
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in _DTYPES:
      raise ValueError(
        f"{path}: {name} is of type {kind}, not one of {', '.join(_DTYPES)}"
      )
    found[name] = InPickle(tensor.detach(), _DTYPES[kind])
  return found


def _load(path: pathlib.Path) -> Any:
  import torch

  if not zipfile.is_zipfile(path):
    raise ValueError(
      f"{path} is no zip file, so it cannot be mapped into memory; if PyTorch"
      f" opens it, torch.save(torch.load({path.name!r}, weights_only=True),"
      f" {path.name!r}) writes it as one"
    )
  try:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
  except Exception as error:  # Of many kinds, all about this file.
    reason = str(error).partition("\n")[0]
    raise ValueError(
      f"{path} cannot be mapped into memory as nothing but tensors: {reason}"
    ) from error


def _dict_of_tensors(path: pathlib.Path, held: Any) -> Mapping[str, Any]:
  """Return what was loaded, or the one dict of tensors in it."""
  import torch

  is_tensor = lambda x: isinstance(x, torch.Tensor)
  if not isinstance(held, Mapping) or not held:
    raise ValueError(f"{path} holds no tensors by name")
  inside = {
    name: x
    for name, x in held.items()
    if isinstance(x, Mapping) and x and all(map(is_tensor, x.values()))
  }
  if any(map(is_tensor, held.values())) or not inside:
    for name, x in held.items():
      if not is_tensor(x):
        raise ValueError(f"{path}: {name} is a {type(x).__name__}, no tensor")
    return held
  if len(inside) > 1:
    raise ValueError(
      f"{path} holds several dicts of tensors, {', '.join(map(str, inside))}:"
      " save the one to take as a file of its own"
    )
  return next(iter(inside.values()))
