import pytest

from mocha_jax.compilation import topology


@pytest.mark.parametrize(
  ("name", "shape", "chips"),
  [
    ("v5p-1024", (8, 8, 8), 512),
    ("v5p-2048", (8, 8, 16), 1024),
    ("v5e-256", (16, 16), 256),
    ("v5litepod-256", (16, 16), 256),
    ("v6e-64", (8, 8), 64),
    ("tpu7x-128", (4, 4, 4), 64),
    ("v5p:4x4x12", (4, 4, 12), 192),
  ],
)
def test_name_counts_cores_or_chips_as_cloud_does(name, shape, chips):
  pod = topology.parse(name, 1)
  assert pod.shape == shape
  assert pod.chips == chips


def test_slices_multiply_the_chips():
  assert topology.parse("v6e-256", 4).chips == 1024


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v5q-1024", 'unknown topology "v5q-1024"; nearest is "v5p-1024"'),
    ("v5p-1000", "v5p comes as v5p-8, v5p-16"),
    ("v5p", 'unknown topology "v5p"'),
    ("v5p:8x8", "the shape of a v5p has 3 axes, such as v5p:2x2x1"),
    ("v6e:4x", "the shape of a v6e has 2 axes"),
  ],
)
def test_wrong_name_is_refused_with_what_there_is(name, message):
  with pytest.raises(ValueError, match=message):
    topology.parse(name, 1)


def test_no_slice_at_all_is_refused():
  with pytest.raises(ValueError, match="0 slices: at least 1"):
    topology.parse("v5p-8", 0)


@pytest.mark.parametrize(
  "generation", topology.GENERATIONS, ids=lambda g: g.name
)
def test_figures_of_a_generation_hang_together(generation):
  # A chip of its clock: units of 128 x 128 or 256 x 256, 2 FLOPs each.
  per_cycle = generation.flops / generation.clock
  units = per_cycle / (2 * 128 * 128)
  assert units == pytest.approx(round(units), rel=0.01)
  assert 0.5 < generation.matmul.share < 1
  assert generation.hbm_bandwidth > 4 * generation.link > generation.dcn
