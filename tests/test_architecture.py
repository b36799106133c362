"""Who may import whom, and the house rules that a parser can check."""

import ast
import dataclasses
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
OURS = ("mocha_jax", "data_pipelines", "experiments")
# What an exported folder gets beside each other, and that nothing imports.
COPIED = ROOT / "mocha_jax" / "export" / "pytorch"

# What runs on a bare accelerator image, and all that such an image holds.
BARE = ("models", "kernels", "diffusion", "training", "codecs", "encoders")
ON_BARE_IMAGE = {
  *sys.stdlib_module_names,
  "jax",
  "flax",
  "optax",
  "orbax",
  "numpy",
  "jaxtyping",
  "mocha_jax",
}
LACKING = (
  "apache_beam",
  "array_record",
  "av",
  "einops",
  "grain",
  "librosa",
  "ml_collections",
  "safetensors",
  "soundfile",
  "soxr",
  "tensorboardX",
  "tensorflow_datasets",
  "tokenizers",
)
# What may be imported besides, where it is used: inside a function.
WHEN_USED = {
  "encoders": {"librosa", "tokenizers"},
  "kernels": {"torch"},  # To be compared with.
  "training": {"tensorboardX", "tensorstore", "rich"},
}

# Whom of us each package may import, besides itself and the leaves, which
# anyone may. A package that is not listed may import all but `main` and
# `experiments`.
LEAVES = {
  "mocha_jax.sharding",
  "mocha_jax.batch",
  "mocha_jax.sections",
  "mocha_jax.network",
  "mocha_jax.chips",
  "mocha_jax.resampling",
  "mocha_jax.tpu_compiler",
}
MAY_IMPORT = {
  "mocha_jax.kernels": LEAVES,
  "mocha_jax.models": LEAVES | {"mocha_jax.kernels"},
  "mocha_jax.diffusion": LEAVES,
  "mocha_jax.training": LEAVES | {"mocha_jax.models", "mocha_jax.diffusion"},
  # Where files of weights are loaded: inside a function.
  "mocha_jax.codecs": LEAVES | {"mocha_jax.weights"},
  # A frozen encoder is made of the same layers as a backbone.
  "mocha_jax.encoders": LEAVES
  | {"mocha_jax.prompts", "mocha_jax.weights", "mocha_jax.models.layers"},
  "mocha_jax.weights": LEAVES,
  "data_pipelines": LEAVES
  | {
    "mocha_jax.codecs",
    "mocha_jax.config",
    "mocha_jax.decode",
    "mocha_jax.encoders",
    "mocha_jax.locks",
    "mocha_jax.media",
    "mocha_jax.prompts",
    "mocha_jax.sigterm",
  },
}


@dataclasses.dataclass(frozen=True)
class Import:
  module: str
  name: str  # The module that it names, in full.
  inside_function: bool

  def __str__(self) -> str:
    return f"{self.module} imports {self.name}"


def sources() -> list[pathlib.Path]:
  return sorted(file for top in OURS for file in (ROOT / top).rglob("*.py"))


def module_name(file: pathlib.Path) -> str:
  parts = file.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: pathlib.Path) -> list[Import]:
  """List the imports of a file; `from a import b` names a.b."""
  found = []

  def visit(node: ast.AST, inside: bool) -> None:
    if isinstance(node, ast.Import):
      found.extend((alias.name, inside) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level or file.parent == COPIED, f"{file}: relative import"
      found.extend((f"{node.module}.{a.name}", inside) for a in node.names)
    function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    for child in ast.iter_child_nodes(node):
      visit(child, inside or function)

  visit(ast.parse(file.read_text(encoding="utf-8")), False)
  return [Import(module_name(file), name, inside) for name, inside in found]


def all_imports() -> list[Import]:
  return [i for file in sources() for i in imports(file)]


def lies_in(module: str, package: str) -> bool:
  return module == package or module.startswith(package + ".")


def bare_package(module: str) -> str | None:
  parts = module.split(".")
  is_bare = parts[0] == "mocha_jax" and len(parts) > 1 and parts[1] in BARE
  return parts[1] if is_bare else None


def test_there_is_something_to_check():
  assert len(sources()) > 10
  assert len(all_imports()) > 50


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_whom_it_may(package):
  allowed = MAY_IMPORT[package] | {package}
  wrong = [
    str(i)
    for i in all_imports()
    if lies_in(i.module, package)
    and i.name.partition(".")[0] in OURS
    and not any(lies_in(i.name, other) for other in allowed)
  ]
  assert not wrong


@pytest.mark.parametrize("module", ["experiments", "mocha_jax.main"])
def test_nothing_imports_what_only_the_command_line_knows(module):
  wrong = [
    str(i)
    for i in all_imports()
    if lies_in(i.name, module) and not lies_in(i.module, "experiments")
  ]
  assert not wrong


def test_experiments_import_only_configs_and_each_other():
  wrong = [
    str(i)
    for i in all_imports()
    if lies_in(i.module, "experiments")
    and i.name.partition(".")[0]
    not in {*sys.stdlib_module_names, "ml_collections", "experiments"}
  ]
  assert not wrong


def test_bare_packages_import_without_anything_else_installed():
  """Import them all while what the image lacks cannot be found."""
  names = [m for m in map(module_name, sources()) if bare_package(m)]
  code = (
    "import importlib, sys\n"
    "class Lacks:\n"
    "  def find_spec(self, name, path=None, target=None):\n"
    f"    if name.partition('.')[0] in {LACKING}:\n"
    "      raise ModuleNotFoundError(name)\n"
    "sys.meta_path.insert(0, Lacks())\n"
    f"for name in {names}: importlib.import_module(name)"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_top_level_imports_are_those_of_a_bare_image():
  wrong = [
    str(i)
    for i in all_imports()
    if bare_package(i.module)
    and not i.inside_function
    and i.name.partition(".")[0] not in ON_BARE_IMAGE
  ]
  assert not wrong


def test_imports_inside_functions_are_those_that_their_package_may_use():
  wrong = []
  for i in all_imports():
    package = bare_package(i.module)
    if package and i.inside_function:
      allowed = ON_BARE_IMAGE | WHEN_USED.get(package, set())
      if i.name.partition(".")[0] not in allowed:
        wrong.append(str(i))
  assert not wrong


def test_partition_specs_are_made_in_sharding_alone():
  wrong = [
    module_name(file)
    for file in sources()
    if "PartitionSpec" in file.read_text(encoding="utf-8")
    and module_name(file) != "mocha_jax.sharding"
  ]
  assert not wrong


def test_configs_have_no_hidden_defaults():
  wrong = [
    module_name(file)
    for file in sources()
    if "config.get(" in file.read_text(encoding="utf-8")
  ]
  assert not wrong


def test_no_module_is_called_utils():
  assert not [file for file in sources() if "util" in file.stem]


def test_nothing_reads_pickles():
  wrong = [
    str(i)
    for i in all_imports()
    if i.name.partition(".")[0] in ("pickle", "dill", "cloudpickle", "joblib")
  ]
  wrong += [
    f"{module_name(file)}: allow_pickle=True"
    for file in sources()
    if "allow_pickle=True" in file.read_text(encoding="utf-8")
  ]
  assert not wrong


@pytest.mark.parametrize(
  "file", sorted((ROOT / "experiments").glob("*.py")), ids=lambda f: f.stem
)
def test_experiment_is_short_and_says_what_it_is(file):
  source = file.read_text(encoding="utf-8")
  tree = ast.parse(source)
  assert ast.get_docstring(tree)
  if not file.stem.startswith("_"):
    assert len(source.splitlines()) <= 120
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert "get_config" in functions


@pytest.mark.parametrize("file", sources(), ids=module_name)
def test_module_opens_with_a_sentence(file):
  assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_importing_the_package_imports_nothing_else():
  code = (
    "import sys; before = set(sys.modules); import mocha_jax;"
    "extra = {m.partition('.')[0] for m in set(sys.modules) - before};"
    "extra -= {'mocha_jax'} | set(sys.stdlib_module_names);"
    "assert not extra, extra"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
