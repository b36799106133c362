import pytest

from mocha_jax.compilation import kernels
from tests import hlo_texts


def test_bundles_count_as_often_as_their_loops_run():
  assert kernels.executed(hlo_texts.SCHEDULE) == hlo_texts.SCHEDULE_BUNDLES


def test_loop_of_unknown_length_is_refused():
  text = hlo_texts.SCHEDULE.replace("%s2, 3 ", "%s2, %s7 ")
  with pytest.raises(ValueError, match="not after a constant number"):
    kernels.executed(text)
