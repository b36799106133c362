"""The verb `import`: other people's weights become a run to go on from."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from mocha_jax import codecs, folders, run, sharding
from mocha_jax import config as configs
from mocha_jax.codecs.wan_vae import WanVAEConfig, open_weights
from mocha_jax.launch import processes
from mocha_jax.models import make_config
from mocha_jax.network import Network, paths
from mocha_jax.sections import section
from mocha_jax.training import stream
from mocha_jax.weights import (
  files,
  lora,
  misfits,
  movie_gen,
  settings,
  tables,
  wan,
)
from mocha_jax.weights.tables import Entry, Stored

# Of a pipeline of diffusers, the part that a backbone comes from.
_COMPONENT = "transformer"


def bring_in(
  config: ConfigDict, source: pathlib.Path, folder: pathlib.Path
) -> str:
  """Make a run whose checkpoint of step 0 holds the weights of a file.

  Every parameter is read by those whose devices will hold it, layer by layer,
  and written as it is read. What hears, and adapters, start fresh where the
  file has nothing of them. All processes call it alike.

  source: what `weights.files.open_tensors` takes.

  Returns:
    What was found, in one line.

  Raises:
    ValueError: keys of either side are missing, extra, misshapen or of no type
      for weights; or a tensor is not finite; or the config would use them in
      another way; or adapters are of another rank or alpha; or the folder is
      there already.
  """
  text = configs.to_json(config)
  processes.agree("config", text)
  if (source / f"{_COMPONENT}_2").is_dir():
    raise ValueError(
      f"{source} has two transformers, and each is half of a model (as of "
      f"Wan2.2): a run holds one, such as --from {source / _COMPONENT}"
    )
  tensors = files.open_tensors(source, _COMPONENT)
  _check_settings(config, source)
  if (source / lora.FILE).is_file():
    tensors |= {
      name.removeprefix(lora.PREFIX): tensor
      for name, tensor in files.open_tensors(source / lora.FILE).items()
    }
    adapters = make_config(config.to_dict()["model"]).lora
    lora.check(source / lora.FILE, rank=adapters.rank, alpha=adapters.alpha)
  network = run.make_network(config)
  with misfits.of(source):
    plan = tables.plan(
      _table(config, network, tensors),
      *(network.shapes, network.letters, tensors),
      fresh=wan.FRESH,
    )
  mesh = sharding.make_mesh(
    section(sharding.MeshConfig, config.to_dict()["mesh"], "mesh")
  )
  fresh = _Fresh(network, config.to_dict()["seed"])

  def promise(path, shape, where) -> stream.Promise:
    name = ".".join(str(key.key) for key in path)
    leaf = plan.leaves.get(name)

    def make() -> stream.Read:
      if leaf is None:
        return stream.held(fresh.make(name, where))
      return leaf.our_parameter(tensors, shape.dtype).read

    return stream.Promise(tuple(shape.shape), shape.dtype, where, make)

  with misfits.of(source), folders.appearing_whole(folder) as partial:
    if processes.is_first():
      (partial / "config.json").write_text(text)
      _bring_codec(config, source, partial)
    stream.write(
      run.Run(partial, config).checkpoints,
      jax.tree.map_with_path(promise, network.shapes, network.shardings(mesh)),
    )
  started = f"; fresh: {', '.join(plan.fresh)}" if plan.fresh else ""
  return f"{len(tensors)} tensors, {len(plan.leaves)} parameters{started}"


def _check_settings(config: ConfigDict, source: pathlib.Path) -> None:
  """See that weights are to be used as they were, if it stands beside them."""
  folder = source if source.is_dir() else source.parent
  if (folder / "model_index.json").is_file():
    folder /= _COMPONENT
  if (folder / "config.json").is_file():
    settings.check(folder / "config.json", config.to_dict()["model"])


def _table(
  config: ConfigDict, network: Network, tensors: Mapping[str, Stored]
) -> Sequence[Entry]:
  """Return the table, of those that the backbone has, with most names there.

  Raises:
    Misfit: none has any.
  """
  model = config.to_dict()["model"]
  theirs: list[Sequence[Entry]]
  if model["name"] == "wan":
    given = (model["patch"], network.shapes)
    theirs = [wan.diffusers(*given), wan.original(*given)]
  else:
    theirs = [movie_gen.entries(network.shapes)]
  known = [
    tables.same_names(network.shapes, network.letters),
    *([*table, *lora.entries(table, network)] for table in theirs),
  ]
  ours = paths(network.shapes)
  known = [[row for row in table if row.ours in ours] for table in known]

  def found(entries: Sequence[Entry]) -> int:
    leaves = tables.bind(entries, network.shapes, network.letters)
    return sum(name in tensors for x in leaves.values() for name in x.names)

  counts = [found(table) for table in known]
  if not any(counts):
    whose = "Wan's or ours" if model["name"] == "wan" else "ours"
    raise misfits.strangers(tensors, whose)
  return known[counts.index(max(counts))]


class _Fresh:
  """Makes parameters as a new run would, one at a time."""

  def __init__(self, network: Network, seed: int):
    self._network = network
    self._key = jax.random.split(jax.random.key(seed))[0]  # As `init_state`.

  def make(self, path: str, where: NamedSharding) -> jax.Array:
    """Make one; the rest of the network is not computed."""

    def init(key):
      return paths(self._network.init(key))[path]

    return jax.jit(init, out_shardings=where)(self._key)


def _bring_codec(
  config: ConfigDict, source: pathlib.Path, folder: pathlib.Path
) -> None:
  """Put a codec into the run if there is one.

  That of a run which was exported, or that of the data, if it is of the
  config's kind; or Wan's, with the weights that the config names or with those
  of a pipeline of diffusers. Otherwise `mocha train` brings that of its data.
  """
  root = config.to_dict()["data"]["root"]
  beside = (source if source.is_dir() else source.parent) / "codec.npz"
  encoded = pathlib.Path(root, "encoded", "codec.npz")
  codec = codecs.make_config(config.to_dict()["codec"])
  for path in (beside, encoded):
    if path.is_file() and type(codecs.load(path).config) is type(codec):
      shutil.copyfile(path, folder / "codec.npz")
      return
  if isinstance(codec, WanVAEConfig):
    weights = codec.weights or (str(source) if _has_vae(source) else "")
    if weights:
      codec = dataclasses.replace(codec, weights=weights)
      open_weights(codec).save(folder / "codec.npz")


def _has_vae(source: pathlib.Path) -> bool:
  return (source / "model_index.json").is_file() and (source / "vae").is_dir()
