from mocha_jax.export import bench

# The others' parts are compiled in other tests.
PROGRAMS = ("jax_silent", "torch", "torch_wan", "torch_vae")


def test_programs_run(capsys):
  bench.main(["--size", "toy", "--compile", "off", "--programs", *PROGRAMS])
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert [row[1] for row in rows] == [*PROGRAMS]
  assert all(float(row[2]) > 0 for row in rows)
  assert {row[1] for row in rows if "not" in row} == {*PROGRAMS[1:]}
