import pytest

from mocha_jax.compilation import hlo
from tests import hlo_texts


@pytest.fixture
def program() -> hlo.Program:
  return hlo.parse(hlo_texts.LAYERS)


def test_loop_runs_as_often_as_it_counts(program):
  assert program.trips(program.entry["loop"]) == 4


def test_loop_without_a_constant_end_is_refused():
  text = hlo_texts.LAYERS.replace("constant(4)", "parameter(1)")
  program = hlo.parse(text)
  with pytest.raises(ValueError, match="does not count up to a constant"):
    program.trips(program.entry["loop"])


def test_attributes_over_several_lines_belong_to_their_instruction(program):
  empty = program.entry["empty"]
  assert empty.scope == "jit(step)/jvp()/broadcast"
  assert empty.target == "AllocateBuffer"


def test_computations_of_other_threads_are_read_too():
  before, end, after = hlo_texts.LAYERS.partition("\n}\n")
  text = before + '\n}, execution_thread="sparsecore"\n' + after
  assert end
  first, *others = hlo.parse(hlo_texts.LAYERS).computations
  assert [*hlo.parse(text).computations] == [first, *others]


def test_arrays_of_a_tuple_are_read_with_their_memories(program):
  arrays = program["body"]["start"].arrays
  assert [a.dims for a in arrays] == [(64, 256), (512, 256)]
  assert [a.bytes for a in arrays] == [2 * 64 * 256, 2 * 512 * 256]
  text = hlo_texts.LAYERS.replace("{2,1,0:T(8,128)(2,1)}", "{2,1,0:S(1)}")
  moved = hlo.parse(text)["fused_slice"]["p.0"].arrays[0]
  assert moved.space == hlo.VMEM


def test_users_of_an_instruction_are_known(program):
  users = program["body"].users["shard"]
  assert [u.name for u in users] == ["whole", "start", "y", "done"]
