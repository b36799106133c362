"""The bench compares one function, and counts each form of it."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu

from mocha_jax.kernels.speech_window import bench, shapes
from mocha_jax.kernels.speech_window.measure import clock, forms
from tests import numerics
from tests.speech_inputs import draw, make_inputs, make_weights, shape

SMALL = shape(width=128, tokens=5)


def arrays(of: shapes.Shape, form: str, passes: str):
  function, sizes = forms.build(forms.FORMS[form], of, passes)
  x, speech = make_inputs(of)
  given = (x.reshape(of.batch, -1, of.width), speech, make_weights(of, "none"))
  if form == forms.KERNEL:
    given = (given[0], *forms.FORMS["folding"].forward(of, *given[1:]))
  if passes == "both":
    given = (draw(0, *given[0].shape), *given)
  assert jax.eval_shape(lambda y: y, given) == sizes
  return function, given


@pytest.mark.parametrize("passes", forms.PASSES)
def test_forms_are_the_same_function(passes):
  def run(form):
    function, given = arrays(SMALL, form, passes)
    return jax.jit(function)(*given)

  want = run("published_dense")
  numerics.assert_close(run("published_gathered"), want, jnp.float32, 128)
  numerics.assert_close(run("collapsed_xla"), want, jnp.float32, 128)
  with pltpu.force_tpu_interpret_mode(True):  # pyright: ignore
    got = run("kernel")
  # Its gradients are of folded speech, but for that of x.
  of_video = lambda y: y if passes == "forward" else (y[0], y[1][0])
  numerics.assert_close(of_video(got), of_video(want), jnp.float32, 128)


def test_unknown_names_are_refused_with_the_known_ones(capsys):
  for option, known in (("--shape", "mocha_30b_8100"), ("--target", "tpu7x")):
    with pytest.raises(SystemExit):
      bench.main([option, "nothing"])
    assert known in capsys.readouterr().err


def test_tpu_without_its_compiler_is_refused(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
  with pytest.raises(SystemExit):
    bench.main(["--target", "v5p"])
  assert "pip install 'mocha_jax[tpu]'" in capsys.readouterr().err


def test_every_form_is_counted_for_a_tpu(tmp_path, capsys):
  pytest.importorskip("libtpu", reason="it needs the extra `tpu`, or `dev`")
  path = tmp_path / "rows.json"
  bench.main(["--shape", "toy", "--target", "v5p", "--json", str(path)])
  rows = json.loads(path.read_text())["rows"]
  assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)
  assert {(row["form"], row["pass"]) for row in rows} == {
    (form, passes)
    for form in (*forms.XLA_FORMS, "kernel")
    for passes in forms.PASSES
  }
  assert {(row["shape"], row["target"]) for row in rows} == {("toy", "v5p")}
  for row in rows:
    assert row["ms"] > 0
    assert row["ratio"] == pytest.approx(row["ms"] / row["floor_ms"])
    assert row["tflop"] > 0
    assert row["hbm_gb"] > 0
    assert row["compile_s"] > 0
  kernels = [row for row in rows if row["form"] == "kernel"]
  assert all(row["fold_ms"] > 0 for row in kernels)
  # Memory alone takes the floor's time, or the bytes are not all counted.
  assert all(row["ratio"] >= 1 for row in kernels)


def test_one_form_can_be_asked_for(capsys):
  pytest.importorskip("libtpu", reason="it needs the extra `tpu`, or `dev`")
  bench.main(["--shape", "toy", "--target", "v6e", "--form", "kernel"])
  rows = capsys.readouterr().out.splitlines()[1:]
  assert len(rows) == len(forms.PASSES)
  assert all(" kernel " in row for row in rows)


def test_device_at_hand_is_timed(monkeypatch):
  monkeypatch.setattr(clock, "ROUNDS", 1)
  times = clock.measure(dataclasses.replace(SMALL, batch=1), "both")
  assert set(forms.XLA_FORMS) <= set(times)
  assert all(seconds > 0 for seconds in times.values())
