import errno
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from mocha_jax import config as configs
from mocha_jax import exporting, folders, importing, run
from mocha_jax.codecs import wan_vae
from mocha_jax.models import make_config
from mocha_jax.network import nested, paths
from mocha_jax.training import stream
from mocha_jax.weights import files
from tests import adapters, command, numerics, wan_vae_files


def averaged(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Read the averaged parameters of a run; imported ones have no other."""
  apart = run.open_run(folder).config.to_dict()["model"]["lora"]["rank"] > 0
  source = exporting.open_source(
    folder, raw=False, apart=apart, dtype="float32"
  )
  return {path: x.read() for path, x in source.parameters.items()}


def export(
  folder,
  out,
  kind: exporting.Format = "safetensors",
  *,
  raw=False,
  dtype: exporting.Dtype = "float32",
):
  source = exporting.open_source(folder, raw=raw, apart=False, dtype=dtype)
  exporting.export(source, out, kind)
  return out


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
  return export(tiny_run, tmp_path_factory.mktemp("exported") / "tiny")


def bring_in(source, folder):
  config = configs.load(str(source / "config.json"))
  return importing.bring_in(config, source, folder)


def test_what_is_exported_is_imported_bit_by_bit(tiny_run, exported, tmp_path):
  said = bring_in(exported, tmp_path / "run")
  assert said.endswith("parameters")  # None is fresh.
  numerics.assert_same(averaged(tmp_path / "run"), averaged(tiny_run))
  codec = (tmp_path / "run" / "codec.npz").read_bytes()
  assert codec == (tiny_run / "codec.npz").read_bytes()


def test_a_folder_of_diffusers_is_imported_too(tiny_run, exported, tmp_path):
  source = export(tiny_run, tmp_path / "out", "diffusers")
  config = configs.load(str(exported / "config.json"))
  importing.bring_in(config, source, tmp_path / "run")
  numerics.assert_same(averaged(tmp_path / "run"), averaged(tiny_run))


def test_two_processes_write_what_one_does(tiny_run, exported, tmp_path):
  asked = ("import", "--config", exported / "config.json", "--from", exported)
  asked += ("--run", tmp_path / "run")
  command.ends(command.start_together(2, *asked, cwd=tmp_path, devices=2))
  numerics.assert_same(averaged(tmp_path / "run"), averaged(tiny_run))


def test_training_goes_on_from_what_was_imported(tiny_run, exported, tmp_path):
  bring_in(exported, tmp_path / "run")
  before = averaged(tmp_path / "run")
  config = exported / "config.json"
  said = command.mocha(
    *("train", "--config", config, "--run", tmp_path / "run"),
    *("--config.train.total_steps=1", "--config.optim.learning_rate=1e-30"),
    cwd=tiny_run.parents[1],
  )
  assert "starting from what was imported" in said
  assert not run.open_run(tmp_path / "run").is_imported
  after = averaged(tmp_path / "run")
  numerics.assert_close(after, before, np.float32)


def test_raw_parameters_and_bfloat16_can_be_asked_for(tiny_run, tmp_path):
  raw = files.open_tensors(export(tiny_run, tmp_path / "raw", raw=True))
  half = files.open_tensors(
    export(tiny_run, tmp_path / "half", dtype="bfloat16")
  )
  network = run.make_network(run.open_run(tiny_run).config)
  last = tiny_run / "checkpoints" / "2"
  (path,) = {"out.kernel"} & paths(network.shapes).keys()
  numerics.assert_same(
    raw[path].read(), stream.read(last, "params", [path])[path].read()
  )
  numerics.assert_same(
    half[path].read(),
    stream.read(last, "ema", [path])[path].read().astype(ml_dtypes.bfloat16),
  )


def test_what_a_file_lacks_starts_as_in_a_new_run(exported, tmp_path):
  from mocha_jax.assemble import assemble
  from mocha_jax.training.state import init_state

  tensors = {
    name: x
    for name, x in files.open_tensors(exported).items()
    if "speech" not in name
  }
  files.write(tmp_path / "part.safetensors", tensors)
  config = configs.load(str(exported / "config.json"))
  config.update(dict(data=dict(batch_size=8)))  # Divides over the devices.
  said = importing.bring_in(
    config, tmp_path / "part.safetensors", tmp_path / "run"
  )
  assert "fresh: " in said and "blocks.speech_attention.key" in said
  parts = assemble(config)
  seed = config.to_dict()["seed"]
  new = init_state(parts.network, parts.optimizer, parts.mesh, seed)
  got = averaged(tmp_path / "run")
  want = {
    path: np.asarray(x)
    for path, x in paths(new.params).items()
    if "speech" in path
  }
  numerics.assert_close({path: got[path] for path in want}, want, np.float32)


@pytest.fixture
def adapted(exported, tmp_path) -> pathlib.Path:
  """Make a run with adapters, all of whose numbers are drawn."""
  config = configs.load(str(exported / "config.json")).to_dict()
  config["model"]["lora"].update(rank=2, targets=("self_attention.query",))
  config["trainable"]["preset"] = "speech+lora"
  config = ConfigDict(config)
  folder = tmp_path / "adapted"
  folder.mkdir()
  (folder / "config.json").write_text(configs.to_json(config))
  draw = np.random.default_rng(0).normal
  promise = lambda x: stream.Promise(
    x.shape,
    x.dtype,
    None,
    lambda: stream.held(jnp.asarray(draw(size=x.shape), x.dtype)),
  )
  shapes = run.make_network(config).shapes
  opened = run.open_run(folder)
  stream.write(opened.checkpoints, jax.tree.map(promise, shapes))
  return folder


@pytest.mark.parametrize("apart", [True, False])
def test_adapters_are_exported_apart_or_merged(adapted, tmp_path, apart):
  source = exporting.open_source(
    adapted, raw=False, apart=apart, dtype="float32"
  )
  exporting.export(source, tmp_path / "out", "safetensors")
  bring_in(tmp_path / "out", tmp_path / "run")
  got, had = averaged(tmp_path / "run"), averaged(adapted)
  if apart:
    numerics.assert_same(got, had)
  else:
    opened = run.open_run(adapted)
    config = make_config(opened.config.to_dict()["model"]).lora
    numerics.assert_same(got, paths(adapters.merged(nested(had), config)))


@pytest.mark.parametrize("named", [".", "model.safetensors"])
def test_adapters_of_another_alpha_are_refused(adapted, tmp_path, named):
  source = exporting.open_source(
    adapted, raw=False, apart=True, dtype="float32"
  )
  exporting.export(source, tmp_path / "out", "safetensors")
  config = configs.load(str(tmp_path / "out" / "config.json"))
  config.update_from_flattened_dict({"model.lora.alpha": 99.0})
  with pytest.raises(
    ValueError, match=r"lora.alpha = .*model.lora.alpha = 99\.0$"
  ):
    importing.bring_in(config, tmp_path / "out" / named, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_weights_that_were_used_otherwise_are_refused(exported, tmp_path):
  config = configs.load(str(exported / "config.json"))
  config.update_from_flattened_dict({"model.speech.edge": "shift"})
  with pytest.raises(ValueError, match=r"have speech.edge = 'clip'"):
    importing.bring_in(config, exported, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_half_of_a_model_is_not_taken(exported, tmp_path):
  (tmp_path / "pipeline" / "transformer_2").mkdir(parents=True)
  config = configs.load(str(exported / "config.json"))
  with pytest.raises(ValueError, match="two transformers"):
    importing.bring_in(config, tmp_path / "pipeline", tmp_path / "run")


def test_a_codec_of_another_kind_is_left_alone(exported, tmp_path):
  shutil.copytree(exported, tmp_path / "out")
  weights = wan_vae_files.write(
    tmp_path / "vae.safetensors", wan_vae_files.make_params(), "released"
  )
  codec = wan_vae.open_weights(wan_vae_files.make_config(weights))
  codec.save(tmp_path / "out" / "codec.npz")
  config = configs.load(str(exported / "config.json"))
  config.update_from_flattened_dict({"data.root": str(tmp_path / "nowhere")})
  importing.bring_in(config, tmp_path / "out", tmp_path / "run")
  assert not (tmp_path / "run" / "codec.npz").exists()


@pytest.fixture
def refused(exported, tmp_path):
  """Import tensors in vain; return what is said after the file."""
  config = configs.load(str(exported / "config.json"))
  file = tmp_path / "x.safetensors"

  def bring_in(tensors) -> str:
    files.write(file, tensors)
    with pytest.raises(ValueError) as error:
      importing.bring_in(config, file, tmp_path / "run")
    assert [*tmp_path.iterdir()] == [file]
    start, said = str(error.value).split(": ", 1)
    assert start == str(file)
    return said

  return bring_in


def test_keys_that_do_not_fit_are_named_and_nothing_stays(exported, refused):
  tensors = dict(files.open_tensors(exported))
  tensors["stranger"] = tensors.pop("out.kernel")
  said = refused(tensors)
  assert said.startswith("2 tensors do not fit: missing out.kernel (for")
  assert "extra stranger" in said


def test_half_of_what_hears_is_not_drawn(exported, refused):
  tensors = {
    name: x
    for name, x in files.open_tensors(exported).items()
    if not name.endswith(("speech.first.kernel", "speech_attention.key"))
  }
  said = refused(tensors)
  assert "missing speech.first.kernel" in said
  assert "missing blocks.0.speech_attention.key (for" in said


def test_a_file_of_another_kind_is_told_by_its_own_names(exported, refused):
  tensors = files.open_tensors(exported)
  said = refused({f"model.{name}": x for name, x in tensors.items()})
  first = ", ".join(f"model.{name}" for name in sorted(tensors)[:3])
  assert said == (
    f"none of its tensors ({len(tensors)}) has a name of ours; first comes "
    f"{first}"
  )


def test_what_is_not_finite_is_named_and_nothing_stays(exported, refused):
  tensors = dict(files.open_tensors(exported))
  weight = tensors["blocks.0.mlp.up"].read()
  weight[0, 0] = np.nan
  said = refused(tensors | {"blocks.0.mlp.up": files.in_memory(weight)})
  assert said.startswith("blocks.0.mlp.up holds NaN or infinity")


def test_a_folder_that_is_there_is_refused(exported, tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "mine.txt").touch()
  with pytest.raises(ValueError, match="there already"):
    bring_in(exported, tmp_path / "run")
  assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_appears_when_it_is_whole(tmp_path):
  (tmp_path / "out.partial").mkdir()  # Of one who was killed.
  (tmp_path / "out.partial" / "old").touch()
  with folders.appearing_whole(tmp_path / "out") as partial:
    (partial / "new").touch()
    assert not (tmp_path / "out").exists()
  assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("there", [".", "/"])
def test_a_folder_with_something_in_it_is_refused(tmp_path, monkeypatch, there):
  (tmp_path / "mine").touch()
  monkeypatch.chdir(tmp_path)
  with (
    pytest.raises(ValueError, match="is there already"),
    folders.appearing_whole(pathlib.Path(there)),
  ):
    pass


def test_a_folder_that_cannot_be_made_is_refused_by_its_name(tmp_path):
  file = tmp_path / "file"
  file.touch()
  for folder, said in (
    (file, "is there already"),
    (file / "out", "cannot be made: Not a directory"),
  ):
    with (
      pytest.raises(ValueError, match=f"^{re.escape(str(folder))} {said}"),
      folders.appearing_whole(folder),
    ):
      pass
  assert [*tmp_path.iterdir()] == [file]


def test_nothing_stays_of_what_fails(tmp_path):
  with (
    pytest.raises(KeyboardInterrupt),
    folders.appearing_whole(tmp_path / "out") as partial,
  ):
    (partial / "new").touch()
    raise KeyboardInterrupt
  assert not [*tmp_path.iterdir()]


def test_what_another_process_writes_is_left_alone(tmp_path):
  with folders.appearing_whole(tmp_path / "out") as partial:
    (partial / "new").touch()
    with (
      pytest.raises(ValueError, match=r"out\.partial: another process"),
      folders.appearing_whole(tmp_path / "out"),
    ):
      pass
  assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_a_full_disk_is_told_where_it_is(tmp_path):
  with (
    pytest.raises(OSError, match=re.escape(f"No space: '{tmp_path / 'out'}'")),
    folders.appearing_whole(tmp_path / "out"),
  ):
    raise OSError(errno.ENOSPC, "No space")
  assert not [*tmp_path.iterdir()]


def test_nothing_stays_of_what_is_told_to_end(tmp_path):
  code = (
    "import os, pathlib, signal, time\n"
    "from mocha_jax import folders\n"
    "with folders.appearing_whole(pathlib.Path('out')) as partial:\n"
    "  (partial / 'new').touch()\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  time.sleep(60)\n"
  )
  environment = command.on_devices(1) | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False
  )
  assert done.returncode == 128 + signal.SIGTERM
  assert not [*tmp_path.iterdir()]
