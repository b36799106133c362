"""Tables of names: which foreign tensor is which parameter, its axes how laid.

A table is a sequence of entries. `plan` binds it to the shapes of both sides
and accounts for every key of both; a `Leaf` of the plan turns what the foreign
side holds into a parameter and back, exactly, whole or a slice at a time.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import einops
import ml_dtypes
import numpy as np

from mocha_jax.network import paths
from mocha_jax.weights.misfits import Item, Misfit, misfit

_LAYER = "{layer}"
_ALIGNED = 64  # Bytes.
_FLOATS = tuple(  # What weights come in. Smaller ones need scales beside them.
  np.dtype(x) for x in ("float64", "float32", "float16", ml_dtypes.bfloat16)
)

Index = tuple[slice, ...]


class Stored(Protocol):
  """A tensor that is read when it is wanted."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Its whole shape."""
    ...

  @property
  def dtype(self) -> np.dtype:
    """The type that `read` returns."""
    ...

  def read(self, index: Index = ()) -> np.ndarray:
    """Return a part of it; index: slices of step 1 of the first axes."""
    ...


@dataclasses.dataclass(frozen=True)
class Entry:
  """One row: a parameter of ours, and what it is called elsewhere.

    Entry("blocks.mlp.up", "blocks.{layer}.ffn.0.weight", "F D")
    Entry("patches.kernel", "patch_embedding.weight", "D c 1 p q",
          "(p q c) D", dict(p=2, q=2))

  ours: the dotted path in the tree of parameters.
  theirs: the foreign name, with {layer} if ours is stacked over layers.
  layout: the foreign axes, in einops's language and the letters of ours;
    unless given, they are ours.
  ours_layout: our axes, where the annotation of the parameter is too coarse.
    The axis of layers is never named.
  sizes: of letters that do not stand alone in our layout.
  """

  ours: str
  theirs: str
  layout: str | None = None
  ours_layout: str | None = None
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """An entry bound to its parameter.

  shape: of the parameter, layers first if `layers` says how many there are.
  ours, theirs: the axes of one layer, each a tuple of letters; sizes: theirs.
  """

  entry: Entry
  shape: tuple[int, ...]
  layers: int | None
  ours: tuple[tuple[str, ...], ...]
  theirs: tuple[tuple[str, ...], ...]
  sizes: Mapping[str, int]

  @property
  def names(self) -> tuple[str, ...]:
    """The foreign names, layer by layer."""
    if self.layers is None:
      return (self.entry.theirs,)
    return tuple(
      self.entry.theirs.replace(_LAYER, str(i)) for i in range(self.layers)
    )

  @property
  def their_shape(self) -> tuple[int, ...]:
    """The shape of each foreign tensor."""
    return tuple(self._size(axis) for axis in self.theirs)

  def read_ours(
    self, tensors: Mapping[str, Stored], index: Index = (), dtype: Any = None
  ) -> np.ndarray:
    """Return a part of the parameter, reading no more than it needs.

    index: slices of step 1 of the first axes of the parameter.

    Raises:
      Misfit: what is read is not finite, or is not in this type.
    """
    bounds, names = _bounds(index, self.shape), self.names
    shape = tuple(end - start for start, end in bounds)
    out = _empty(shape, tensors[names[0]].dtype if dtype is None else dtype)
    if self.layers is None:
      chosen, parts, of_layer = names, out[None], bounds
    else:
      chosen, parts, of_layer = names[slice(*bounds[0])], out, bounds[1:]
    for row, name in enumerate(chosen):
      part = parts[row, ...]
      part[...] = self._read(tensors[name], of_layer, self.theirs, self.ours)
      if not np.isfinite(part).all():
        raise Misfit(f"{name} holds NaN or infinity, read as {out.dtype}")
    return out

  def our_parameter(self, tensors: Mapping[str, Stored], dtype: Any) -> Stored:
    """Return the parameter, read from the tensors when it is wanted."""
    return _Ours(self, tensors, np.dtype(dtype))

  def their_tensors(self, parameter: Stored) -> Iterator[tuple[str, Stored]]:
    """Yield each foreign tensor, read from the parameter when it is wanted."""
    for i, name in enumerate(self.names):
      yield name, _Theirs(self, parameter, i)

  def _read(
    self,
    source: Stored,
    bounds: Sequence[tuple[int, int]],
    there: tuple[tuple[str, ...], ...],
    here: tuple[tuple[str, ...], ...],
    first: Index = (),
  ) -> np.ndarray:
    """Read the part within the bounds of `here`'s axes from axes `there`.

    first: of axes of the source before `there`.
    """
    wanted = {
      axis[0]: pair
      for axis, pair in zip(here, bounds, strict=True)
      if len(axis) == 1
    }
    sizes, index = dict(self.sizes), []
    for axis in there:
      letter, inner = (axis[0], axis[1:]) if axis else ("", ())
      whole = all(wanted.get(x, (0, sizes[x])) == (0, sizes[x]) for x in inner)
      if letter in wanted and whole:
        start, end = wanted.pop(letter)
        step = math.prod(sizes[x] for x in inner)
        sizes[letter] = end - start
        index.append(slice(start * step, end * step))
      else:
        index.append(slice(0, self._size(axis)))
    x = source.read((*first, *index))
    x = _rearrange(x[(0,) * len(first)], there, here, sizes)
    rest = (
      slice(None) if len(axis) == 1 and axis[0] not in wanted else slice(*pair)
      for axis, pair in zip(here, bounds, strict=True)
    )
    return x[tuple(rest)]

  def _size(self, axis: Iterable[str]) -> int:
    return math.prod(self.sizes[letter] for letter in axis)


@dataclasses.dataclass(frozen=True)
class _Ours:
  """A parameter among foreign tensors."""

  leaf: Leaf
  tensors: Mapping[str, Stored]
  dtype: np.dtype

  @property
  def shape(self) -> tuple[int, ...]:
    return self.leaf.shape

  def read(self, index: Index = ()) -> np.ndarray:
    return self.leaf.read_ours(self.tensors, index, self.dtype)


@dataclasses.dataclass(frozen=True)
class _Theirs:
  """The foreign tensor of one layer of a parameter."""

  leaf: Leaf
  parameter: Stored
  layer: int

  @property
  def shape(self) -> tuple[int, ...]:
    return self.leaf.their_shape

  @property
  def dtype(self) -> np.dtype:
    return self.parameter.dtype

  def read(self, index: Index = ()) -> np.ndarray:
    leaf = self.leaf
    first = () if leaf.layers is None else (slice(self.layer, self.layer + 1),)
    bounds = _bounds(index, self.shape)
    return leaf._read(self.parameter, bounds, leaf.ours, leaf.theirs, first)


@dataclasses.dataclass(frozen=True)
class Plan:
  """Where every parameter comes from.

  leaves: by their paths, those that the foreign side has.
  fresh: paths of those that it lacks, and that start anew.
  """

  leaves: Mapping[str, Leaf]
  fresh: tuple[str, ...]


def plan(
  entries: Iterable[Entry],
  shapes: Any,
  letters: Any,
  theirs: Mapping[str, Any],
  *,
  fresh: Sequence[Sequence[str]] = (),
  ignored: Sequence[str] = (),
) -> Plan:
  """Match a table with the parameters and the foreign tensors.

  shapes, letters: trees of the parameters: what has a shape, and annotations.
  theirs: what has a shape and, unless only shapes matter, a type of numpy, by
    name.
  fresh: groups, each the paths of parameters or of modules of which the foreign
    side may lack all.
  ignored: names (* stands for any letters) of foreign tensors without use.

  Raises:
    Misfit: keys are missing, extra, misshapen, or of no type for weights.
  """
  leaves = bind(entries, shapes, letters)
  absent = [
    group
    for group in fresh
    if not any(
      _lies_in(path, group) and any(name in theirs for name in leaf.names)
      for path, leaf in leaves.items()
    )
  ]
  wrong, found, lacking = [], {}, []
  for path, leaf in leaves.items():
    if any(_lies_in(path, group) for group in absent):
      lacking.append(path)
      continue
    found[path] = leaf
    for name in leaf.names:
      wrong += _compare(name, theirs.get(name), leaf)
  known = {name for leaf in leaves.values() for name in leaf.names}
  wrong += [
    Item("extra", name, f" {tuple(x.shape)}")
    for name, x in theirs.items()
    if name not in known
    and not any(fnmatch.fnmatchcase(name, x) for x in ignored)
  ]
  for path in (path for path in paths(shapes) if path not in leaves):
    if any(_lies_in(path, group) for group in absent):
      lacking.append(path)
    else:
      wrong.append(Item("missing", path, ": the table has no name for it"))
  if wrong:
    raise misfit(wrong)
  return Plan(found, tuple(lacking))


def _compare(name: str, tensor: Any, leaf: Leaf) -> list[Item]:
  """Say what is wrong with a foreign tensor; None: it is not there."""
  wanted = f" (for {leaf.entry.ours})"
  if tensor is None:
    return [Item("missing", name, wanted)]
  shape = tuple(tensor.shape)
  if shape != leaf.their_shape:
    rest = f": {shape}, not {leaf.their_shape}{wanted}"
    return [Item("misshapen", name, rest)]
  if isinstance(tensor.dtype, np.dtype) and tensor.dtype not in _FLOATS:
    rest = f": {tensor.dtype}, not a float of 16 bits or more{wanted}"
    return [Item("mistyped", name, rest)]
  return []


def bind(
  entries: Iterable[Entry], shapes: Any, letters: Any
) -> dict[str, Leaf]:
  """Bind every entry to its parameter, by path.

  Raises:
    ValueError: an entry names no parameter, or does not fit it; or two entries
      name the same.
  """
  flat, named = paths(shapes), paths(letters)
  leaves, names = {}, set()
  for entry in entries:
    if entry.ours not in flat:
      raise ValueError(f"{entry.ours} (for {entry.theirs}) is no parameter")
    leaf = _bind(entry, tuple(flat[entry.ours].shape), named[entry.ours])
    if entry.ours in leaves or not names.isdisjoint(leaf.names):
      raise ValueError(f"{entry.ours}, {entry.theirs}: named twice")
    leaves[entry.ours] = leaf
    names.update(leaf.names)
  return leaves


def same_names(shapes: Any, letters: Any) -> list[Entry]:
  """Make the table of plain names: ours, layers of `blocks` numbered."""
  named = paths(letters)
  entries = []
  for path, x in paths(shapes).items():
    stacked = len(x.shape) > len(named[path].split())
    theirs = path
    if stacked:
      before, blocks, after = path.rpartition("blocks.")
      theirs = f"{before}{blocks}{_LAYER}.{after}"
    entries.append(Entry(path, theirs))
  return entries


def _bind(entry: Entry, shape: tuple[int, ...], letters: str) -> Leaf:
  """Find out the sizes of all letters; raise ValueError if they do not fit."""
  stacked = _LAYER in entry.theirs
  one = shape[1:] if stacked else shape
  wrong = ValueError(
    f"{entry.ours} {shape} with letters {letters!r} does not fit {entry}"
  )
  if entry.layout is None:  # The axes need no names: any will do.
    ours = theirs = tuple((f"axis{i}",) for i in range(len(one)))
  else:
    ours = _axes(letters if entry.ours_layout is None else entry.ours_layout)
    theirs = _axes(entry.layout)
  sizes = dict(entry.sizes)
  if len(ours) != len(one):
    raise wrong
  for axis, size in zip(ours, one, strict=True):
    unknown = [letter for letter in axis if letter not in sizes]
    known = math.prod(sizes[x] for x in axis if x in sizes)
    if len(unknown) > 1 or (unknown and size % known):
      raise wrong
    sizes |= {letter: size // known for letter in unknown}
    if math.prod(sizes[letter] for letter in axis) != size:
      raise wrong
  flat = [[x for axis in side for x in axis] for side in (ours, theirs)]
  if sorted(flat[0]) != sorted(flat[1]) or len({*flat[0]}) != len(flat[0]):
    raise wrong
  return Leaf(entry, shape, shape[0] if stacked else None, ours, theirs, sizes)


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Make an array that JAX's CPUs take as it is, without a copy."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  room = np.empty(size + _ALIGNED, np.uint8)
  start = -room.ctypes.data % _ALIGNED
  return room[start : start + size].view(dtype).reshape(shape)


def _axes(layout: str) -> tuple[tuple[str, ...], ...]:
  """Split a layout into axes, "(N H) D 1" into (N, H), (D,) and ()."""
  axes, group = [], None
  for word in layout.replace("(", " ( ").replace(")", " ) ").split():
    if word == "(":
      group = []
    elif word == ")":
      axes.append(tuple(group or ()))
      group = None
    elif group is not None:
      group.append(word)
    else:
      axes.append(() if word == "1" else (word,))
  return tuple(axes)


def _rearrange(x: Any, there: Any, here: Any, sizes: Mapping[str, int]) -> Any:
  """Bring an array from one layout into the other."""
  if there == here:
    return x
  pattern = f"{_layout(there)} -> {_layout(here)}"
  letters = {letter for axis in there for letter in axis}
  return einops.rearrange(x, pattern, **{k: sizes[k] for k in letters})


def _layout(axes: Iterable[tuple[str, ...]]) -> str:
  return " ".join(
    axis[0] if len(axis) == 1 else f"({' '.join(axis)})" for axis in axes
  )


def _bounds(index: Index, shape: tuple[int, ...]) -> list[tuple[int, int]]:
  """Return start and end along every axis."""
  whole = (slice(None),) * (len(shape) - len(index))
  return [
    part.indices(size)[:2]
    for part, size in zip((*index, *whole), shape, strict=True)
  ]


def _lies_in(path: str, modules: Iterable[str]) -> bool:
  return any(path == m or path.startswith(f"{m}.") for m in modules)
