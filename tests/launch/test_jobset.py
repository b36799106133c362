import importlib.resources
import math
import pathlib
from typing import Any

import jsonschema
import pytest
import yaml

from mocha_jax import config as experiments
from mocha_jax import flags

SCHEMA = pathlib.Path(__file__).with_name("jobset_schema.yaml")


@pytest.fixture
def manifest() -> dict[str, Any]:
  text = importlib.resources.files("mocha_jax.launch") / "jobset.yaml"
  return yaml.safe_load(text.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schema():
  schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
  jsonschema.Draft202012Validator.check_schema(schema)
  return jsonschema.Draft202012Validator(schema)


def slice_job(manifest) -> dict[str, Any]:
  return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod(manifest) -> dict[str, Any]:
  return slice_job(manifest)["template"]["spec"]


def test_manifest_is_what_the_resource_definition_allows(manifest, schema):
  schema.validate(manifest)


@pytest.mark.parametrize(
  "spoil",
  [
    lambda m: m["spec"].update(maxRestarts=3),
    lambda m: m["spec"]["failurePolicy"].update(maxRestarts="3"),
    lambda m: m["spec"]["replicatedJobs"][0].pop("name"),
    lambda m: slice_job(m).update(parallelism="128"),
    lambda m: slice_job(m).pop("template"),
    lambda m: pod(m)["nodeSelector"].update(topology=8),
    lambda m: pod(m)["containers"][0].update(argv=["train"]),
    lambda m: pod(m)["containers"][0]["resources"]["limits"].update(cpu="four"),
    lambda m: pod(m)["volumes"][0]["persistentVolumeClaim"].clear(),
  ],
)
def test_mistake_is_seen(manifest, schema, spoil):
  spoil(manifest)
  with pytest.raises(jsonschema.ValidationError):
    schema.validate(manifest)


def test_hosts_and_chips_make_up_the_topology(manifest):
  job, spec = slice_job(manifest), pod(manifest)
  chips = spec["containers"][0]["resources"]["limits"]["google.com/tpu"]
  topology = spec["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  assert job["parallelism"] == job["completions"]
  assert job["parallelism"] * chips == math.prod(map(int, topology.split("x")))


def test_command_is_one_that_mocha_understands(manifest):
  (container,) = pod(manifest)["containers"]
  program, *words = container["command"] + container["args"]
  asked = flags.make_parser().parse_args(words)
  assert program == "mocha"
  assert asked.verb == "train"
  assert asked.config in experiments.names()
  assert [m["name"] for m in container["volumeMounts"]] == [
    v["name"] for v in pod(manifest)["volumes"]
  ]
