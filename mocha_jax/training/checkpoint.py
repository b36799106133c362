"""Checkpoints of a run: state and data iterator, saved together by orbax."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from mocha_jax.network import Network, joined
from mocha_jax.training import stream
from mocha_jax.training.state import TrainState, state_shardings


class BatchIterator(Protocol):
  """Batches, and where among them we are."""

  def __next__(self) -> Any: ...

  def get_state(self) -> dict[str, Any]:
    """Return the position as what JSON can hold."""
    ...

  def set_state(self, state: dict[str, Any]) -> None:
    """Go to a position."""
    ...


class Checkpointer:
  """Saves in the background, step by step, into a folder.

  keep: checkpoints that stay; None keeps all.
  told_to_stop: asks whether a run without a coordinator was.

  Each part of the state is an item of its own, so that sampling reads the
  moving average alone. A save appears under its step only when it is whole.
  All processes of a run call it alike: each writes and reads what its devices
  hold, so that a run can go on with another number of processes.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    keep: int | None,
    told_to_stop: Callable[[], bool] = lambda: False,
  ):
    self._told_to_stop = told_to_stop
    self._folder = folder.absolute()
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(max_to_keep=keep),
    )

  @property
  def latest(self) -> int | None:
    """The newest step saved."""
    return self._manager.latest_step()

  @property
  def folder(self) -> pathlib.Path:
    """Where the newest checkpoint lies."""
    return self._folder / str(self.latest)

  @property
  def parts(self) -> set[str]:
    """What the newest checkpoint holds; an imported one, "params" alone."""
    return {item.name for item in self.folder.iterdir() if item.is_dir()}

  def is_preempted(self, step: int) -> bool:
    """Return whether to end before this step, since a machine will be lost.

    A cluster says so by SIGTERM; all processes hear it at the same step. They
    must all ask at every step.
    """
    return self._told_to_stop() or self._manager.reached_preemption(step)

  def save(self, state: TrainState, batches: BatchIterator) -> None:
    """Save under the state's step; returns when the arrays are copied."""
    step = int(state.step)
    if step == self.latest:
      return
    parts: dict[str, Any] = {
      field.name: _save(field.name, getattr(state, field.name))
      for field in dataclasses.fields(state)
    }
    parts["data"] = ocp.args.JsonSave(batches.get_state())
    self._manager.save(step, args=ocp.args.Composite(**parts))

  def restore(self, like: TrainState, batches: BatchIterator) -> TrainState:
    """Return the newest state and bring the batches to its position.

    like: the shapes, types and shardings to restore into.
    """
    parts: dict[str, Any] = {
      field.name: _restore(field.name, getattr(like, field.name))
      for field in dataclasses.fields(like)
    }
    parts["data"] = ocp.args.JsonRestore()
    saved = self._manager.restore(self.latest, args=ocp.args.Composite(**parts))
    batches.set_state(saved["data"])
    return TrainState(**{k: saved[k][k] for k in parts if k != "data"})

  def restore_part(self, name: str, like: Any) -> Any:
    """Return one part of the newest state, such as "ema"."""
    args = ocp.args.Composite(**{name: _restore(name, like)})
    return self._manager.restore(self.latest, args=args)[name][name]

  def restore_average(self, like: Any, trained: Any) -> Any:
    """Return all parameters, of the trained the average where there is one.

    like, trained: what to restore into, of all and of the trained.
    """
    has_average = "ema" in self.parts
    if has_average and trained == like:
      return self.restore_part("ema", like)
    params = self.restore_part("params", like)
    if not has_average:
      return params
    return joined(params, self.restore_part("ema", trained))

  def close(self) -> None:
    """Wait until what was saved is written."""
    self._manager.close()


def open_newest(folder: pathlib.Path) -> Checkpointer:
  """Open checkpoints to read the newest.

  Raises:
    FileNotFoundError: there is none.
  """
  if not folder.is_dir():
    raise FileNotFoundError(f"{folder.parent} has no checkpoints yet")
  checkpointer = Checkpointer(folder, keep=None)
  if checkpointer.latest is None:
    raise FileNotFoundError(f"no checkpoint in {folder}")
  return checkpointer


def _save(name: str, part: Any) -> ocp.args.StandardSave:
  """Save one part; it lies under its name, since orbax wants a tree."""
  tree = {name: part}
  return ocp.args.StandardSave(tree, jax.tree.map(stream.save_args, tree))


def _restore(name: str, like: Any) -> ocp.args.StandardRestore:
  """Ask for one part, from under its name."""
  return ocp.args.StandardRestore({name: like})


def abstract_state(network: Network, optimizer, mesh: Mesh) -> TrainState:
  """Return the shapes, types and shardings of a train state."""
  scalar = jax.ShapeDtypeStruct((), "int32")
  shapes = TrainState(
    step=scalar,
    params=network.shapes,
    ema=network.trained(network.shapes),
    opt_state=jax.eval_shape(optimizer.init, network.trained(network.shapes)),
    rng=jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
  )
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    shapes,
    state_shardings(network, optimizer, mesh),
  )
