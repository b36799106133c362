import pytest

from mocha_jax.compilation import hlo
from mocha_jax.compilation.costs import Costs
from tests import hlo_texts


@pytest.fixture
def body() -> tuple[Costs, hlo.Computation]:
  program = hlo.parse(hlo_texts.LAYERS)
  return Costs(program), program["body"]


def test_product_inside_a_fusion_counts(body):
  costs, computation = body
  want = 2 * 1024 * 512 * 256
  assert costs.flops(computation, computation["other"]) == want
  assert costs.flops(computation, computation["y"]) == want
  assert costs.flops(computation, computation["shard"]) == 0


def test_of_an_array_that_is_sliced_the_slice_is_read(body):
  costs, computation = body
  # One layer of four is read and written; of the index 4 bytes.
  assert costs.traffic(computation, computation["shard"]) == (
    2 * 64 * 256 * 2 + 4
  )


def test_of_a_stack_that_is_updated_in_place_the_update_is_written(body):
  costs, computation = body
  assert costs.traffic(computation, computation["kept"]) == (
    2 * 1024 * 256 * 2 + 4
  )


def test_collective_that_a_product_carries_is_no_traffic_of_the_product(body):
  costs, computation = body
  read = 2 * (1024 * 512 + 512 * 256)
  written = 2 * 1024 * 256
  assert costs.traffic(computation, computation["y"]) == read + written


@pytest.mark.parametrize(
  ("labels", "left", "right", "out", "window", "flops"),
  [
    ("bf_io->bf", (64, 32), (32, 16), (64, 16), "", 2 * 64 * 32 * 16),
    # A batch of 8 products, the batch as an axis of space.
    (
      "0bf_0io->0bf",
      (8, 64, 32),
      (8, 32, 16),
      (8, 64, 16),
      "window={size=8 stride=7 lhs_dilate=8}, ",
      8 * 2 * 64 * 32 * 16,
    ),
    # A kernel of 3 over 10, padded at both ends: 3 x 10 - 2 products.
    (
      "b0f_0io->b0f",
      (2, 10, 4),
      (3, 4, 5),
      (2, 10, 5),
      "window={size=3 pad=1_1}, ",
      2 * 2 * 4 * 5 * 28,
    ),
  ],
)
def test_convolution_counts_the_products_that_there_are(
  labels, left, right, out, window, flops
):
  shape = lambda dims: f"bf16[{','.join(map(str, dims))}]"
  text = (
    f"ENTRY %main (a: {shape(left)}, b: {shape(right)}) -> {shape(out)} {{\n"
    f"  %a = {shape(left)} parameter(0)\n"
    f"  %b = {shape(right)} parameter(1)\n"
    f"  ROOT %c = {shape(out)} convolution(%a, %b), {window}"
    f"dim_labels={labels}\n"
    "}\n"
  )
  program = hlo.parse(text)
  entry = program.entry
  assert Costs(program).flops(entry, entry["c"]) == flops
