"""Working on a picture part by part, exactly.

What convolutions make of a part of a picture depends on no more than a halo
around it. So each part is worked on with its halo; where that ends within the
picture, the outermost results are wrong (the convolutions took zeros for what
lies beyond) and are cut off, level by level; where it ends with the picture,
zeros are right. What is left is what the whole picture gives.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

Start: TypeAlias = "int | jax.Array"


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of one side of a grid: so many cells from `start` of `whole`."""

  start: Start
  cells: int
  whole: int

  def at(self, scale: int, halo: int) -> "Part":
    """Return the part with a halo, on a grid that is `scale` times as fine.

    Parts of the same size stay so: at the ends of the grid a part goes further
    in, as it can go no further out.
    """
    whole = self.whole * scale
    cells = min(whole, self.cells * scale + 2 * halo)
    if cells == whole:
      return Part(0, whole, whole)
    start = jnp.clip(self.start * scale - halo, 0, whole - cells)
    return Part(start, cells, whole)

  def over(self, scale: int) -> "Part":
    """Return the same part on a grid that is `scale` times as coarse."""
    return Part(self.start // scale, self.cells // scale, self.whole // scale)


@dataclasses.dataclass(frozen=True)
class Tile:
  """A part of the rows and of the columns of a grid."""

  rows: Part
  columns: Part

  def at(self, scale: int, halo: int) -> "Tile":
    """Return the tile with a halo, on a grid that is `scale` times as fine."""
    return Tile(self.rows.at(scale, halo), self.columns.at(scale, halo))

  def doubled(self) -> "Tile":
    """Return the tile on a grid that is twice as fine."""
    return self.at(2, 0)

  def halved(self) -> "Tile":
    """Return the tile on a grid that is half as fine."""
    return Tile(self.rows.over(2), self.columns.over(2))


def whole(rows: int, columns: int) -> Tile:
  """Return the tile that is the whole grid."""
  return Tile(Part(0, rows, rows), Part(0, columns, columns))


def cut(x: Array, there: Tile, tile: Tile) -> Array:
  """Cut a tile out of "... h w c", which is the tile `there`."""
  for axis, old, new in (
    (x.ndim - 3, there.rows, tile.rows),
    (x.ndim - 2, there.columns, tile.columns),
  ):
    if new.cells != old.cells:
      start = new.start - old.start
      x = jax.lax.dynamic_slice_in_dim(x, start, new.cells, axis)
  return x


def assemble(
  make: Callable[[Tile], Array],
  rows: int,
  columns: int,
  *,
  most: int,
  scale: int,
) -> Array:
  """Make "... H W c" of a grid tile by tile, `scale` as fine as the grid.

  most: rows and columns of the grid that a tile may have; 0 for any. All tiles
  have one size, and those that do not fit at the end overlap. One after
  another, they are made by one program.
  """
  counts = [-(-side // most) if most else 1 for side in (rows, columns)]
  cells = [-(-s // n) for s, n in zip((rows, columns), counts, strict=True)]
  if counts == [1, 1]:
    return make(whole(rows, columns))

  def tile(i: jax.Array) -> Tile:
    row, column = i // counts[1], i % counts[1]
    return Tile(
      Part(jnp.minimum(row * cells[0], rows - cells[0]), cells[0], rows),
      Part(
        jnp.minimum(column * cells[1], columns - cells[1]), cells[1], columns
      ),
    )

  def put(i: jax.Array, made: Array) -> Array:
    where = tile(i)
    starts = [0] * (made.ndim - 3)
    starts += [where.rows.start * scale, where.columns.start * scale, 0]
    return jax.lax.dynamic_update_slice(made, make(where), starts)

  one = jax.eval_shape(lambda: make(tile(jnp.int32(0))))
  shape = (*one.shape[:-3], rows * scale, columns * scale, one.shape[-1])
  return jax.lax.fori_loop(
    0, counts[0] * counts[1], put, jnp.zeros(shape, one.dtype)
  )
