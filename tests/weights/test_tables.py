import ml_dtypes
import numpy as np
import pytest

from mocha_jax.network import paths
from mocha_jax.weights import files, misfits, tables
from mocha_jax.weights.tables import Entry
from tests import numerics

TABLE = [
  Entry(
    *("patches.kernel", "patch.weight", "D c 1 p q", "(p q c) D"),
    sizes=dict(p=2, q=2),
  ),
  Entry("blocks.query", "layers.{layer}.q.weight", "(N H) D"),
  Entry("blocks.out", "layers.{layer}.o.weight", "D (N H)"),
  Entry("blocks.table", "layers.{layer}.table", "1 (a b) D", "a b D"),
  Entry("scale", "scale"),
]
LETTERS = {
  "patches": {"kernel": "C D"},
  "blocks": {"query": "D N H", "out": "N H D", "table": "_ _ D"},
  "scale": "6D",
}


def draw(*shape):
  return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


OURS = {
  "patches": {"kernel": draw(20, 8)},
  "blocks": {
    "query": draw(3, 8, 2, 4),
    "out": draw(3, 2, 4, 8),
    "table": draw(3, 2, 3, 8),
  },
  "scale": draw(7),
}
FLAT = paths(OURS)


def foreign():
  """Return what the other side holds."""
  return {
    name: tensor
    for path, leaf in tables.bind(TABLE, OURS, LETTERS).items()
    for name, tensor in leaf.their_tensors(files.in_memory(FLAT[path]))
  }


def read(plan, theirs):
  return {path: leaf.read_ours(theirs) for path, leaf in plan.leaves.items()}


def test_axes_go_where_the_table_says():
  theirs = foreign()
  assert theirs["patch.weight"].shape == (8, 5, 1, 2, 2)
  names = ("patch.weight", "layers.2.q.weight", "layers.1.o.weight")
  weight, query, out = (theirs[name].read() for name in names)
  kernel = FLAT["patches.kernel"].reshape(2, 2, 5, 8)
  assert weight[7, 4, 0, 1, 0] == kernel[1, 0, 4, 7]
  assert query[1 * 4 + 3, 6] == FLAT["blocks.query"][2, 6, 1, 3]
  assert out[6, 1 * 4 + 3] == FLAT["blocks.out"][1, 1, 3, 6]
  table = theirs["layers.1.table"].read()
  assert table[0, 1 * 3 + 2, 5] == FLAT["blocks.table"][1, 1, 2, 5]


def test_there_and_back_changes_no_bit():
  theirs = foreign()
  plan = tables.plan(TABLE, OURS, LETTERS, theirs)
  assert not plan.fresh
  numerics.assert_same(read(plan, theirs), FLAT)


@pytest.mark.parametrize("path", FLAT)
def test_a_slice_is_that_of_the_whole(path):
  theirs = foreign()
  leaf = tables.plan(TABLE, OURS, LETTERS, theirs).leaves[path]
  for axis, size in enumerate(leaf.shape):
    index = (slice(None),) * axis + (slice(size // 2, size),)
    numerics.assert_same(leaf.read_ours(theirs, index), FLAT[path][index])


@pytest.mark.parametrize("path", FLAT)
def test_a_slice_of_a_foreign_tensor_is_that_of_the_whole(path):
  leaf = tables.bind(TABLE, OURS, LETTERS)[path]
  for name, tensor in leaf.their_tensors(files.in_memory(FLAT[path])):
    whole = foreign()[name].read()
    numerics.assert_same(tensor.read(), whole)
    for axis, size in enumerate(tensor.shape):
      index = (slice(None),) * axis + (slice(0, max(1, size // 2)),)
      numerics.assert_same(tensor.read(index), whole[index])


class Counting:
  """A tensor that knows how much of it was read."""

  def __init__(self, tensor):
    self.tensor, self.read_bytes = tensor, 0
    self.shape, self.dtype = tensor.shape, tensor.dtype

  def read(self, index=()):
    part = self.tensor.read(index)
    self.read_bytes += part.nbytes
    return part


@pytest.mark.parametrize(
  ("path", "axis"),
  [("blocks.query", 1), ("blocks.query", 2), ("blocks.out", 1)],
)
def test_a_slice_of_heads_or_width_reads_no_more_than_itself(path, axis):
  theirs = {name: Counting(x) for name, x in foreign().items()}
  leaf = tables.plan(TABLE, OURS, LETTERS, theirs).leaves[path]
  part = leaf.read_ours(theirs, (slice(None),) * axis + (slice(0, 1),))
  assert sum(x.read_bytes for x in theirs.values()) == part.nbytes


def test_every_key_of_both_sides_is_accounted_for():
  theirs = foreign()
  theirs["unknown"] = theirs["scale"]
  theirs["scale"] = files.in_memory(draw(6))
  del theirs["layers.1.q.weight"]
  with pytest.raises(ValueError) as error:
    tables.plan(TABLE[:-2] + TABLE[-1:], OURS, LETTERS, theirs)
  said = str(error.value)
  assert "missing layers.1.q.weight (for blocks.query)" in said
  assert "misshapen scale: (6,), not (7,)" in said
  assert "extra unknown (7,)" in said
  assert "extra layers.{0..2}.table (1, 6, 8)" in said
  assert "missing blocks.table: the table has no name for it" in said
  assert said.startswith("7 tensors do not fit")


def test_what_may_start_fresh_is_read_where_it_is_there():
  theirs, fresh = foreign(), [["scale"]]
  assert not tables.plan(TABLE, OURS, LETTERS, theirs, fresh=fresh).fresh
  del theirs["scale"]
  plan = tables.plan(TABLE, OURS, LETTERS, theirs, fresh=fresh)
  assert plan.fresh == ("scale",)
  plan = tables.plan(TABLE[:-1], OURS, LETTERS, theirs, fresh=fresh)
  assert plan.fresh == ("scale",)


def test_a_group_that_is_there_in_part_does_not_start_fresh():
  theirs, fresh = foreign(), [["blocks.query", "blocks.out"], ["scale"]]
  for i in range(3):
    del theirs[f"layers.{i}.q.weight"]
  with pytest.raises(ValueError, match=r"^3 tensors do not fit") as error:
    tables.plan(TABLE, OURS, LETTERS, theirs, fresh=fresh)
  said = "missing layers.{0..2}.q.weight (for blocks.query)"
  assert said in str(error.value)
  for i in range(3):
    del theirs[f"layers.{i}.o.weight"]
  plan = tables.plan(TABLE, OURS, LETTERS, theirs, fresh=fresh)
  assert plan.fresh == ("blocks.query", "blocks.out")
  without = [row for row in TABLE if row.ours != "blocks.query"]
  theirs["layers.1.o.weight"] = foreign()["layers.1.o.weight"]
  with pytest.raises(ValueError, match=r"missing blocks\.query: the table has"):
    tables.plan(without, OURS, LETTERS, theirs, fresh=fresh)


@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "complex64"])
def test_only_floats_are_weights(kind):
  theirs = foreign()
  theirs["scale"] = files.in_memory(draw(7).astype(kind))
  theirs["step"] = files.in_memory(np.array(3))
  with pytest.raises(ValueError, match=f"mistyped scale: {kind}") as error:
    tables.plan(TABLE, OURS, LETTERS, theirs)
  assert "extra step ()" in str(error.value)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["float32", "float16", ml_dtypes.bfloat16])
def test_what_is_not_finite_is_refused_where_it_is_read(wrong, kind):
  theirs = foreign()
  weight = theirs["layers.1.q.weight"].read().astype(kind)
  weight[-1, -1] = wrong
  theirs["layers.1.q.weight"] = files.in_memory(weight)
  leaf = tables.plan(TABLE, OURS, LETTERS, theirs).leaves["blocks.query"]
  with pytest.raises(misfits.Misfit, match=r"^layers\.1\.q\.weight holds NaN"):
    leaf.read_ours(theirs, dtype=np.float32)
  leaf.read_ours(theirs, (slice(0, 1),))
  leaf.read_ours(theirs, (slice(None), slice(0, 7)))


def test_what_is_known_to_be_useless_is_ignored():
  theirs = foreign() | {"layers.0.ids": files.in_memory(draw(3))}
  with pytest.raises(ValueError, match=r"extra layers\.0\.ids"):
    tables.plan(TABLE, OURS, LETTERS, theirs)
  tables.plan(TABLE, OURS, LETTERS, theirs, ignored=["layers.*.ids"])


@pytest.mark.parametrize(
  ("entry", "message"),
  [
    (Entry("scales", "x"), "scales .for x. is no parameter"),
    (Entry("scale", "x.{layer}", "D"), "does not fit"),
    (Entry("blocks.query", "x.{layer}", "(N H) E"), "does not fit"),
    (Entry("patches.kernel", "x", "D c p q", "(p q c) D"), "does not fit"),
  ],
)
def test_an_entry_that_does_not_fit_is_refused(entry, message):
  with pytest.raises(ValueError, match=message):
    tables.bind([entry], OURS, LETTERS)


def test_a_name_may_be_taken_once():
  twice = [Entry("scale", "x"), Entry("patches.kernel", "x")]
  with pytest.raises(ValueError, match="named twice"):
    tables.bind(twice, OURS, LETTERS)


def test_plain_names_are_ours_with_layers_apart():
  plain = tables.same_names(OURS, LETTERS)
  leaves = tables.bind(plain, OURS, LETTERS)
  assert leaves["blocks.query"].names[1] == "blocks.1.query"
  assert leaves["blocks.query"].their_shape == (8, 2, 4)
  assert leaves["scale"].names == ("scale",)
