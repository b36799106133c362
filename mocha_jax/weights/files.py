"""Files of tensors, read and written a tensor, or a part of one, at a time."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from mocha_jax.weights import pickles
from mocha_jax.weights.tables import Index, Stored

_DTYPES = {
  "BOOL": np.dtype(np.bool_),
  "U8": np.dtype(np.uint8),
  "I8": np.dtype(np.int8),
  "I16": np.dtype(np.int16),
  "I32": np.dtype(np.int32),
  "I64": np.dtype(np.int64),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F32": np.dtype(np.float32),
  "F64": np.dtype(np.float64),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_SAFE = ".safetensors"
# Of files with a part of the tensors each: which is where.
_INDICES = (f"{_SAFE}.index.json", ".bin.index.json")
_MOST_NAMES = 12  # Of what lies in a folder, in an error.
_PART = 2**28  # Bytes that are read, and then written, at a time.
SHARD_BYTES = 5 * 10**9  # Of a file, unless a tensor is larger.
_HEADER = 8  # Bytes before a header of JSON, which say how long it is.


@dataclasses.dataclass(frozen=True)
class InSafetensors:
  """A tensor in a safetensors file, which is open only while it is read."""

  path: pathlib.Path
  name: str
  shape: tuple[int, ...]
  dtype: np.dtype

  def read(self, index: Index = ()) -> np.ndarray:
    """Return a part of it."""
    with safetensors.safe_open(self.path, "np") as file:
      return file.get_slice(self.name)[index or ...]


@dataclasses.dataclass(frozen=True)
class InMemory:
  """A tensor that is an array."""

  array: Any
  shape: tuple[int, ...]
  dtype: np.dtype

  def read(self, index: Index = ()) -> np.ndarray:
    """Return a part of it."""
    return np.asarray(self.array[index])


@dataclasses.dataclass(frozen=True)
class Cast:
  """A tensor that is read as another type."""

  tensor: Stored
  dtype: np.dtype

  @property
  def shape(self) -> tuple[int, ...]:
    """Its whole shape."""
    return self.tensor.shape

  def read(self, index: Index = ()) -> np.ndarray:
    """Return a part of it."""
    return self.tensor.read(index).astype(self.dtype)


def in_memory(array: Any) -> InMemory:
  """Wrap an array, so that it can be written."""
  return InMemory(array, tuple(array.shape), np.dtype(array.dtype))


def open_tensors(
  path: pathlib.Path, component: str | None = None
) -> dict[str, Stored]:
  """Find the tensors of a checkpoint, by name; none is read yet.

  path: a file .safetensors, an index .safetensors.index.json or
    .bin.index.json, or PyTorch's .pth, .pt, .bin or .ckpt with nothing but
    tensors; or a folder with safetensors or, without, with one of the others.
  component: the folder to take, such as "transformer", where `path` is a whole
    pipeline of diffusers.

  Raises:
    FileNotFoundError: there is nothing of this kind.
    ValueError: a file is damaged or lacks what an index names, or two hold a
      tensor of the same name; or it is not clear which file to take.
  """
  if component and (path / "model_index.json").is_file():
    path = path / component
  if path.is_dir():
    return _open_folder(path)
  if path.is_file() and path.name.endswith(_INDICES):
    return _open_index(path)
  return _open_file(path)


def _open_file(path: pathlib.Path) -> dict[str, Stored]:
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file or folder")
  if path.suffix == _SAFE:
    return _open_safetensors(path)
  if path.suffix in pickles.SUFFIXES:
    return {**pickles.open_tensors(path)}
  raise ValueError(
    f"{path}: expected {_SAFE}, {', '.join(pickles.SUFFIXES)}, "
    f"{', '.join(_INDICES)}, or a folder with such files"
  )


def _open_folder(folder: pathlib.Path) -> dict[str, Stored]:
  """Open the safetensors of a folder, or else what PyTorch wrote."""
  safe, others = (sorted(folder.glob(f"*{index}")) for index in _INDICES)
  files = sorted(folder.glob(f"*{_SAFE}"))
  if safe or (others and not files):
    return _open_index(_only(folder, safe or others))
  if files:
    return _union(files)
  found = sorted(x for x in folder.iterdir() if x.suffix in pickles.SUFFIXES)
  return _open_file(_only(folder, found))


def _only(folder: pathlib.Path, found: Sequence[pathlib.Path]) -> pathlib.Path:
  """Return what was found in a folder if it is one."""
  if len(found) == 1:
    return found[0]
  named = found or sorted(folder.iterdir())
  names = ", ".join(path.name for path in named[:_MOST_NAMES])
  if len(named) > _MOST_NAMES:
    names += f" and {len(named) - _MOST_NAMES} more"
  if found:
    raise ValueError(f"{folder} holds several checkpoints: name one of {names}")
  raise FileNotFoundError(
    f"{folder} holds no {_SAFE}, {', '.join(pickles.SUFFIXES)}, but "
    f"{names or 'nothing'}"
  )


def _union(files: Sequence[pathlib.Path]) -> dict[str, Stored]:
  found: dict[str, Stored] = {}
  lies_in: dict[str, pathlib.Path] = {}
  for file in files:
    held = _open_file(file)
    for name in held.keys() & found.keys():
      raise ValueError(
        f"{lies_in[name]} and {file} both hold {name}: name one of the files, "
        "not their folder"
      )
    found |= held
    lies_in |= dict.fromkeys(held, file)
  return found


def _open_index(path: pathlib.Path) -> dict[str, Stored]:
  try:
    where = json.loads(path.read_text())["weight_map"]
    names = sorted({*where.values()})
    if any(pathlib.PurePath(name).name != name for name in names):
      raise ValueError(f"weight_map names {names}, not files beside it")
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{path} is no index of tensors: {error}") from error
  found = _union([path.parent / name for name in names])
  for name in where.keys() ^ found.keys():
    raise ValueError(f"{path} and the files that it names differ in {name}")
  return found


def _open_safetensors(path: pathlib.Path) -> dict[str, Stored]:
  try:
    with safetensors.safe_open(path, "np") as file:
      slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
      kinds = {
        name: (tuple(x.get_shape()), x.get_dtype())
        for name, x in slices.items()
      }
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path} is no safetensors file: {error}") from error
  found: dict[str, Stored] = {}
  for name, (shape, kind) in kinds.items():
    if kind not in _DTYPES:
      raise ValueError(
        f"{path}: {name} is of type {kind}, not one of {', '.join(_DTYPES)}"
      )
    found[name] = InSafetensors(path, name, shape, _DTYPES[kind])
  return found


def write_sharded(
  folder: pathlib.Path,
  tensors: Mapping[str, Stored],
  *,
  stem: str,
  shard_bytes: int = SHARD_BYTES,
  metadata: Mapping[str, str] | None = None,
) -> list[pathlib.Path]:
  """Write tensors as safetensors, each read only when its turn comes.

  One file STEM.safetensors, or where that would hold more than `shard_bytes`,
  STEM-00001-of-0000N.safetensors and STEM.safetensors.index.json.

  metadata: what a file says of itself.

  Returns:
    The files.
  """
  folder.mkdir(parents=True, exist_ok=True)
  shards = _shards(tensors, shard_bytes)
  if len(shards) == 1:
    return [write(folder / f"{stem}.safetensors", shards[0], metadata)]
  where, files = {}, []
  for i, shard in enumerate(shards):
    name = f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
    files.append(write(folder / name, shard, metadata))
    where |= dict.fromkeys(shard, name)
  index = folder / f"{stem}.safetensors.index.json"
  total = sum(map(_bytes, tensors.values()))
  content = {"metadata": {"total_size": total}, "weight_map": where}
  index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
  return [*files, index]


def _shards(
  tensors: Mapping[str, Stored], limit: int
) -> list[dict[str, Stored]]:
  shards, used = [{}], 0
  for name, tensor in tensors.items():
    size = _bytes(tensor)
    if shards[-1] and used + size > limit:
      shards.append({})
      used = 0
    shards[-1][name] = tensor
    used += size
  return shards


def write(
  path: pathlib.Path,
  tensors: Mapping[str, Stored],
  metadata: Mapping[str, str] | None = None,
) -> pathlib.Path:
  """Write one safetensors file, in parts of tensors of some 256 MB."""
  header: dict[str, Any] = {
    "__metadata__": {"format": "pt", **(metadata or {})}
  }
  end = 0
  for name, tensor in tensors.items():
    start, end = end, end + _bytes(tensor)
    header[name] = {
      "dtype": _NAMES[tensor.dtype],
      "shape": list(tensor.shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # What follows is aligned.
  with path.open("wb") as file:
    file.write(len(text).to_bytes(_HEADER, "little") + text)
    for tensor in tensors.values():
      for part in _parts(tensor):
        file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
  return path


def _parts(tensor: Stored) -> Iterator[np.ndarray]:
  """Read a tensor in parts of some 256 MB, along its first axis."""
  if not tensor.shape:
    yield tensor.read()
    return
  rows = tensor.shape[0]
  step = max(1, rows * _PART // max(1, _bytes(tensor)))
  for start in range(0, rows, step):
    yield tensor.read((slice(start, min(start + step, rows)),))


def _bytes(tensor: Stored) -> int:
  return int(np.prod(tensor.shape, dtype=np.int64)) * tensor.dtype.itemsize
