import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from mocha_jax import config as configs
from mocha_jax import main
from tests import command

PROMPT = "A close-up of a woman who talks."
TINY = str(command.TINY)
# Two clips do not divide over the eight devices of the tests.
MESH = (
  "--config.mesh.fsdp=2",
  "--config.mesh.tensor=2",
  "--config.mesh.context=2",
)


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
  """Run a verb that must fail; return the one line that it says."""
  monkeypatch.chdir(tmp_path)

  def run(*arguments: object) -> str:
    capsys.readouterr()
    assert main.run([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error.rstrip()

  return run


def sine(path, *, seconds: float):
  time = np.arange(round(16_000 * seconds)) / 16_000
  soundfile.write(path, 0.5 * np.sin(2 * np.pi * 220 * time), 16_000)
  return path


def lengths(path) -> tuple[int, float]:
  """Return the frames of an mp4, and the seconds of its sound (0: none)."""
  with av.open(str(path)) as container:
    frames = sum(1 for _ in container.decode(video=0))
  with av.open(str(path)) as container:
    if not container.streams.audio:
      return frames, 0.0
    samples = sum(frame.samples for frame in container.decode(audio=0))
    return frames, samples / container.streams.audio[0].rate


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["tran"], "mocha tran: argument VERB: invalid choice: 'tran'"),
    (["train"], "mocha train: the following arguments are required: --config"),
    (
      ["train", "--config", "quikstart"],
      'mocha train: unknown experiment "quikstart"; nearest is "quickstart"',
    ),
    (
      ["train", "--config", "nowhere.py"],
      "mocha train: no experiment file nowhere.py",
    ),
    (
      ["data", "toy", "--config", TINY, "--config.clp.fps=3"],
      'mocha data toy: --config.clp.fps=3: unknown key "clp"; nearest is "cl',
    ),
    (
      ["data", "toy", "--config", TINY, "--config.clip.fps=fast"],
      "mocha data toy: flag --config.clip.fps=fast: invalid literal",
    ),
    (
      ["data", "toy", "--config", TINY, "--config.clip.fps=0"],
      "mocha data toy: config.clip: ",
    ),
    (
      ["data", "inspect", "nowhere"],
      "mocha data inspect: no records in nowhere",
    ),
    (
      ["data", "ingest", "nowhere", "--captions", "c.csv", "--config", TINY],
      "mocha data ingest: nowhere: no such folder",
    ),
    (
      ["data", "encode", "--config", TINY],
      "mocha data encode: no records in data/raw",
    ),
    (
      ["train", "--config", TINY, *MESH],
      "mocha train: no records in data/encoded",
    ),
    (["score", "nowhere"], "mocha score: nowhere is no run folder"),
    (
      ["score", "nowhere", "--config.seed=1"],
      "mocha score: --config.seed=1: this verb takes no --config",
    ),
    (
      ["sample", "--run", "nowhere", "--prompt", PROMPT, "--out", "x.mp4"],
      "mocha sample: nowhere is no run folder",
    ),
    (
      ["sample", "--run", "nowhere", "--out", "x.mp4"],
      "mocha sample: one of the arguments --prompt --csv is required",
    ),
    (
      ["sample", "--run", "r", "--csv", "nowhere.csv", "--out", "x"],
      "mocha sample: nowhere.csv: no such file",
    ),
  ],
  ids=lambda value: None if isinstance(value, str) else " ".join(value[:2]),
)
def test_bad_request_gets_one_line_that_says_what_is_wrong(
  refused, arguments, message
):
  assert refused(*arguments).startswith(message)


def test_training_by_the_config_of_a_run_asks_for_a_folder(refused, tmp_path):
  file = tmp_path / "config.json"
  file.write_text(configs.to_json(configs.load(TINY)))
  assert "has no name: give --run" in refused("train", "--config", file)


def sample(run, *more: object) -> list[object]:
  return ["sample", "--run", run, "--out", "x.mp4", *more]


def test_file_that_is_no_sound_is_refused_by_name(refused, tiny_run, tmp_path):
  (tmp_path / "no.wav").write_text("no sound")
  error = refused(*sample(tiny_run, "--prompt", PROMPT, "--speech", "no.wav"))
  assert error.startswith("mocha sample: no.wav: broken: Invalid data")


def test_speech_that_is_not_there_is_refused_by_name(refused, tiny_run):
  error = refused(*sample(tiny_run, "--prompt", PROMPT, "--speech", "no.wav"))
  assert error == "mocha sample: no.wav: no such file"


def test_too_long_speech_is_refused_with_what_the_model_allows(
  refused, tiny_run, tmp_path
):
  wav = sine(tmp_path / "long.wav", seconds=60)
  error = refused(*sample(tiny_run, "--prompt", PROMPT, "--speech", wav))
  assert "long.wav: speech of 60.00 s needs 1440 frames; the model" in error
  assert "(config.model.max_frames = " in error
  assert "raised before `mocha import` or before training from scr" in error


def test_too_many_frames_are_refused(refused, tiny_run):
  error = refused(*sample(tiny_run, "--prompt", PROMPT, "--frames", 4000))
  assert "sample: 4000 frames last 166.67 s; the model allows" in error
  assert "(config.model.max_frames = " in error


def test_frames_that_do_not_divide_are_refused(refused, tiny_run):
  error = refused(*sample(tiny_run, "--prompt", PROMPT, "--frames", 13))
  assert error.endswith("must be a multiple of 4 for the codec: 12 or 16")


@pytest.mark.parametrize(
  ("out", "message"),
  [
    ("clips", "clips is a folder: give the name of an .mp4 file"),
    ("z4", "z4: what is written is an .mp4, so name it that"),
    ("z5.wav", "z5.wav: what is written is an .mp4, so name it that"),
    ("clips/a/x.mp4", "clips/a is a file: clips/a/x.mp4 cannot be made in it"),
  ],
)
def test_clip_that_cannot_be_written_is_refused_before_the_model_is_opened(
  refused, tmp_path, out, message
):
  (tmp_path / "clips").mkdir()
  (tmp_path / "clips" / "a").touch()
  asked = ("sample", "--run", "nowhere", "--prompt", PROMPT, "--out", out)
  assert refused(*asked) == f"mocha sample: {message}"


@pytest.mark.parametrize("frames", ["0", "-4", "4.5", "long"])
def test_length_that_is_none_is_refused_by_name(refused, tiny_run, frames):
  error = refused(*sample(tiny_run, "--prompt", PROMPT, f"--frames={frames}"))
  assert f"argument --frames: {frames} must be a number, at least 1" in error


def test_person_who_is_never_described_is_named(refused, tiny_run):
  prompt = "One video clip.\n\nCharacters:\n- Person1: a man\n\n"
  prompt += "First clip: Person2 talks."
  assert "Person2" in refused(*sample(tiny_run, "--prompt", prompt))


def test_run_of_another_config_names_the_key_that_differs(
  refused, tiny_run, monkeypatch
):
  monkeypatch.chdir(tiny_run.parents[1])
  error = refused("train", "--config", TINY, "--config.model.width=96", *MESH)
  assert "runs/tiny holds a run with config.model.width = 64, not 96" in error


@pytest.mark.parametrize(
  "asked",
  [
    ("sample", "--prompt", PROMPT),
    ("export", "--format", "diffusers"),
    ("export", "--format", "stablehlo"),
  ],
  ids=["sample", "diffusers", "stablehlo"],
)
def test_files_of_encoders_that_moved_are_asked_for_where_their_paths_stand(
  refused, tiny_run, tmp_path, asked
):
  run = shutil.copytree(tiny_run, tmp_path / "run")
  given = configs.load(str(run / "config.json")).to_dict()
  heard = configs.load("mocha_wan_1_3b").to_dict()["speech_encoder"]
  given["speech_encoder"] = heard | {"weights": "moved"}
  (run / "config.json").write_text(configs.to_json(ConfigDict(given)))
  error = refused(asked[0], "--run", "run", "--out", "x.mp4", *asked[1:])
  assert "'wav2vec2': moved: no such file or folder" in error
  assert error.endswith("(the paths stand in run/config.json)")
  assert not (tmp_path / "x.mp4").exists()


def test_adapters_apart_are_refused_where_there_are_none(refused, tiny_run):
  asked = ("--format", "diffusers", "--lora", "apart", "--out", "x")
  error = refused("export", "--run", tiny_run, *asked)
  assert error == (
    f"mocha export: {tiny_run} has no adapters to keep apart "
    "(config.model.lora.rank = 0)"
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("clip.fps=12", "clip.fps = 24, now it is 12: give back"),
    ("codec.color_weights=(1.0, 1.0, 1.0)", "codec.color_weights = (1.0, 1.0"),
    ("speech_encoder.hops_per_frame=2", "hops_per_frame = 4, now it is 2"),
    ("text_encoder.length=64", "text_encoder.length = 128, now it is 64"),
  ],
)
def test_training_on_data_that_were_encoded_otherwise_is_refused(
  refused, tiny_run, tmp_path, monkeypatch, change, message
):
  monkeypatch.chdir(tiny_run.parents[1])
  run = tmp_path / "run"
  error = refused(
    "train", "--config", TINY, "--run", run, f"--config.{change}", *MESH
  )
  assert "data/encoded was made with" in error and message in error
  assert not run.exists()


@pytest.mark.parametrize("killed", [False, True])
def test_folder_that_is_no_run_is_said_to_come_of_an_import(
  refused, tmp_path, killed
):
  if killed:
    (tmp_path / "run.partial").mkdir()
  error = refused("sample", "--run", "run", "--prompt", "A.", "--out", "x.mp4")
  assert error.endswith(
    "run is no run folder: it has no config.json; `mocha train --run` or "
    "`mocha import` makes one"
    + killed
    * " (run.partial is what an import left that did not end)"
  )


@pytest.mark.parametrize("killed", [False, True])
def test_random_backbone_is_not_frozen(refused, tiny_run, monkeypatch, killed):
  monkeypatch.chdir(tiny_run.parents[1])
  run = tiny_run.parent / f"never_{killed}"
  partial = run.with_name(f"{run.name}.partial")
  if killed:
    (partial / "checkpoints").mkdir(parents=True)
  preset = "--config.trainable.preset=speech"
  error = refused("train", "--config", TINY, "--run", run, preset, *MESH)
  assert f"{run} holds no imported weights" in error
  assert 'preset = "speech" would leave the backbone random' in error
  assert "run `mocha import`" in error
  assert (str(partial) in error) == killed
  assert not run.exists()


@pytest.mark.parametrize(
  ("table", "message"),
  [
    ("name,text\na,b\n", "wishes.csv: no column prompt; it has name, text"),
    ("name,prompt,speech\n", "wishes.csv: holds no row"),
    ("name,prompt,speech\na,b,\na,c,\n", "wishes.csv, line 3: name 'a' must"),
    ("name,prompt,speech\na,b,no.wav\n", "no.wav: no such file"),
  ],
)
def test_bad_table_of_wishes_is_refused(
  refused, tiny_run, tmp_path, table, message
):
  file = tmp_path / "wishes.csv"
  file.write_text(table)
  error = refused("sample", "--run", tiny_run, "--csv", file, "--out", "x")
  assert message in error


def test_sampled_clip_lasts_as_long_as_its_speech(tiny_run, tmp_path):
  sine(tmp_path / "half.wav", seconds=0.5)
  table = tmp_path / "wishes.csv"
  table.write_text(
    f"name,prompt,speech\nspoken,{PROMPT},half.wav\nmute,{PROMPT},\n"
  )
  out = tmp_path / "clips"
  said = command.mocha(
    "sample", "--run", tiny_run, "--csv", table, "--out", out, cwd=tmp_path
  )
  assert f"wrote {out / 'spoken.mp4'}" in said
  frames, seconds = lengths(out / "spoken.mp4")
  assert frames == 12  # 0.5 s at 24 fps.
  assert seconds == pytest.approx(0.5, abs=0.07)  # AAC ends on a whole frame.
  assert lengths(out / "mute.mp4") == (16, 0.0)


def test_data_that_is_there_is_left_as_it_is(tiny_run):
  folder = tiny_run.parents[1]
  before = {p: p.stat().st_mtime_ns for p in (folder / "data").rglob("*.a*")}
  for verb, name in (("toy", "raw"), ("encode", "encoded")):
    said = command.mocha("data", verb, "--config", TINY, cwd=folder)
    assert said == f"data/{name} is up to date\n"
  after = {p: p.stat().st_mtime_ns for p in (folder / "data").rglob("*.a*")}
  assert before == after
  assert before


def test_score_fills_a_run_and_says_where(tiny_run, tmp_path):
  run = shutil.copytree(tiny_run, tmp_path / "run")
  said = command.mocha("score", run, cwd=tiny_run.parents[1])
  assert "Mouth correlation" in said
  for name in ("scores.json", "report.html", "samples"):
    assert f"wrote {run / name}" in "".join(said.splitlines())
    assert (run / name).exists()


def test_finished_run_is_left_as_it_is(tiny_run, tmp_path):
  run = shutil.copytree(tiny_run, tmp_path / "run")
  arguments = ("train", "--config", TINY, "--run", run)
  said = command.mocha(*arguments, cwd=tiny_run.parents[1])
  assert said == (
    f"nothing to do: {run} has step 2 of 2; for more, raise "
    "config.train.total_steps\n"
  )
  names = sorted(path.name for path in (run / "checkpoints").iterdir())
  assert names == ["1", "2"]


def test_traceback_is_there_for_who_asks(capsys, monkeypatch):
  monkeypatch.setenv("MOCHA_DEBUG", "1")
  assert main.run(["data", "inspect", "nowhere"]) == 2
  error = capsys.readouterr().err
  assert "Traceback" in error
  assert error.splitlines()[-1].startswith("mocha data inspect: no records")


@pytest.mark.parametrize("module", ["mocha_jax.bug", "another"])
@pytest.mark.parametrize(
  "bug",
  [
    "1 / 0",
    "int('x')",
    "a, b = [1]",
    "np.zeros(2).reshape(3)",
    "np.zeros(2) + np.zeros(3)",
    "np.stack([])",
  ],
)
def test_fault_of_ours_keeps_its_traceback(monkeypatch, module, bug):
  module = {"__name__": module, "np": np}
  exec(f"def verb(_):\n  {bug}", module)
  monkeypatch.setitem(main._WITHOUT_CONFIG, "experiments", module["verb"])
  with pytest.raises((ZeroDivisionError, ValueError)):
    main.run(["experiments"])


def test_missing_extra_is_named(monkeypatch, capsys):
  def needs_beam(_):
    raise ModuleNotFoundError("No module", name="apache_beam.io")

  monkeypatch.setitem(main._WITHOUT_CONFIG, "experiments", needs_beam)
  assert main.run(["experiments"]) == 2
  assert "pip install 'mocha_jax[data]'" in capsys.readouterr().err


def test_experiments_are_listed_with_what_they_are_for(capsys):
  assert main.run(["experiments"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == configs.names()
  assert all(len(line.split()) > 2 for line in lines)


@pytest.mark.parametrize(
  "verb",
  [[], ["data"]]
  + [["data", v] for v in ("toy", "ingest", "encode", "inspect")]
  + [[v] for v in ("train", "sample", "score", "experiments")],
  ids=" ".join,
)
def test_every_verb_has_help(capsys, verb):
  with pytest.raises(SystemExit) as ended:
    main.run([*verb, "--help"])
  assert ended.value.code == 0
  assert capsys.readouterr().out.startswith(" ".join(["usage: mocha", *verb]))


def test_listing_experiments_needs_nothing_heavy():
  code = (
    "import sys; from mocha_jax import main; main.run(['experiments']);"
    "heavy = {'jax', 'numpy', 'grain', 'apache_beam', 'tensorflow_datasets'};"
    "assert not heavy & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=command.ROOT)
