"""The verb `compile`: the train step, compiled for a pod, and what it shows."""

import math
import pathlib
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mocha_jax import codecs, sharding
from mocha_jax.assemble import Parts, assemble
from mocha_jax.batch import Batch, Condition
from mocha_jax.compilation import hlo, memory, network, roofline
from mocha_jax.compilation import report as reports
from mocha_jax.compilation.report import Report
from mocha_jax.compilation.search import Sizes
from mocha_jax.compilation.topology import Pod, devices
from mocha_jax.encoders import make_text_encoders
from mocha_jax.media import ClipFormat
from mocha_jax.models import flops
from mocha_jax.sections import section
from mocha_jax.training.checkpoint import abstract_state

_USED = re.compile(r"(?:Used|requires?|temporaries \()\s*([\d.]+)([KMGT]?)")


def compile_for(
  config: ConfigDict, pod: Pod, *, name: str, schedules: pathlib.Path
) -> Report:
  """Compile the step that `mocha train` runs for a pod, and read the result.

  name: of the config, for the report.
  schedules: an empty folder that libtpu, when it starts, is told to write to
    (`tpu_compiler.dump_to`).

  Raises:
    ValueError: the config is wrong or does not fit the pod's shape; or there
      is no compiler for TPUs.
  """
  parts = assemble(config, devices(pod))
  state = abstract_state(parts.network, parts.optimizer, parts.mesh)
  batch = batch_shapes(config, parts)
  about = _about(config, pod, parts, batch, name)
  began = time.monotonic()
  try:
    compiled = parts.step.lower(state, batch).compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    seconds = time.monotonic() - began
    return Report(**about, compile_seconds=seconds, **_does_not_fit(error))
  seconds = time.monotonic() - began
  wiring = network.Wiring(parts.mesh, pod)
  program = hlo.parse(compiled.as_text() or "")
  spent = roofline.predict(program, pod.generation, wiring, schedules)
  used = compiled.memory_analysis()
  assert used is not None
  peak = used.peak_memory_in_bytes
  kinds = memory.by_kind(program, state, batch, peak)
  per_chip = wiring.devices_per_chip
  return Report(
    **about,
    compile_seconds=seconds,
    fits=peak * per_chip <= pod.generation.hbm,
    peak_hbm_bytes=float(peak * per_chip),
    memory={kind: size * per_chip for kind, size in kinds.items()},
    **_figures(spent, pod, per_chip, sum(about["model_flops"].values())),
  )


def batch_shapes(config: ConfigDict, parts: Parts) -> Batch:
  """Return the shapes of a batch as training reads it, and where it lies."""
  given, model = config.to_dict(), parts.model
  clip = section(ClipFormat, given["clip"], "clip")
  codec = codecs.make_config(given["codec"])
  grid = codecs.latent_shape(codec, clip.frames, clip.height, clip.width)
  where = sharding.batch_sharding(parts.mesh)
  clips = given["data"]["batch_size"]

  def shape(*dims: int, dtype: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct((clips, *dims), dtype, sharding=where)

  encoders = make_text_encoders(given["text_encoder"])
  text = {
    name: shape(encoders[name].length, features)
    for name, features in model.frozen_text.items()
  }
  if model.small_text is not None:
    text["small_text"] = shape(model.small_text.length, dtype=jnp.int32)
  mask = {k: shape(x.shape[1], dtype=jnp.bool_) for k, x in text.items()}
  speech = shape(clip.frames, model.speech.features)
  return Batch(shape(*grid), Condition(speech, text, mask))


def sizes(config: ConfigDict, pod: Pod) -> tuple[Sizes, int]:
  """Return what a search needs to know, and how many devices a pod has.

  The mesh of the config does not matter.
  """
  there = devices(pod)
  free = ConfigDict(config.to_dict())
  free.update_from_flattened_dict(
    {f"mesh.{axis}": 1 for axis in sharding.AXES}
    | {"mesh.fsdp": -1, "mesh.slice": pod.slices}
    | {"step.accumulate": 1, "data.batch_size": len(there)}
  )
  parts = assemble(free, there)
  batch = batch_shapes(config, parts)
  clips, frames, rows, columns, _ = batch.latents.shape
  forward = flops.batch_flops(parts.model, batch)
  return Sizes(
    model=parts.model,
    parameters=_count(parts.network.shapes),
    trained=_count(_trained(parts)),
    forward={part: n / clips for part, n in forward.items()},
    tokens=frames * rows * columns // parts.model.patch**2,
    frames=frames,
    clips=clips,
  ), len(there)


def _trained(parts: Parts) -> Any:
  return parts.network.trained(parts.network.shapes)


def _count(tree: Any) -> int:
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _about(
  config: ConfigDict, pod: Pod, parts: Parts, batch: Batch, name: str
) -> dict[str, Any]:
  """Return what is known of a report before anything is compiled."""
  given, generation = config.to_dict(), pod.generation
  clips, frames, rows, columns, _ = batch.latents.shape
  forward = flops.batch_flops(parts.model, batch)
  return dict(
    config=name,
    topology=str(pod),
    chips=pod.chips,
    mesh=dict(parts.mesh.shape),
    batch_size=clips,
    accumulate=given["step"]["accumulate"],
    layers=parts.model.layers,
    tokens=frames * rows * columns // parts.model.patch**2,
    remat=parts.model.remat,
    parameters=_count(parts.network.shapes),
    model_flops=flops.training(forward, _trained(parts)),
    peak_flops=generation.flops,
    hbm_bytes=generation.hbm,
    hbm_bandwidth=generation.hbm_bandwidth,
    ici_link_bandwidth=generation.link,
    dcn_bandwidth=generation.dcn,
    efficiency=generation.matmul.share,
    efficiency_source=generation.matmul.source,
  )


def _does_not_fit(error: Exception) -> dict[str, Any]:
  """Read from the compiler's refusal how much it would have needed."""
  said = " ".join(str(error).split())
  found = _USED.search(said)
  units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
  needs = float(found[1]) * units[found[2]] if found else None
  why = said.partition("RESOURCE_EXHAUSTED: ")[2].partition(". ")[0]
  return dict(fits=False, why_not=why, peak_hbm_bytes=needs)


def _figures(
  spent: roofline.Time, pod: Pod, per_chip: int, model_flops: float
) -> dict[str, Any]:
  """Turn the time of one device into the figures of a report."""
  peak = pod.generation.flops / per_chip
  work = tuple(
    reports.Work(
      part=part,
      phase=phase,
      flops=w.flops * per_chip,
      bytes=w.bytes * per_chip,
      seconds=w.seconds,
      of_peak=w.flops / (peak * w.seconds),
    )
    for (part, phase), w in spent.work.items()
  )
  collectives = tuple(
    reports.Collective(
      kind=kind,
      axes=axes,
      count=sent.count,
      bytes=sent.bytes * per_chip,
      seconds=sent.ici + sent.dcn,
      exposed_seconds=sent.exposed,
    )
    for (kind, axes), sent in spent.collectives.items()
  )
  forward = spent.sum("flops", ("forward",))
  timed = _time(spent)
  bound = max(timed, key=lambda name: timed[name].added)
  return dict(
    hardware_flops=spent.sum("flops") * per_chip * pod.chips,
    recomputed_share=spent.sum("flops", ("recomputed",)) / forward,
    work=work,
    collectives=collectives,
    time=timed,
    step_seconds=spent.seconds,
    compiler_estimate_seconds=spent.sum("estimate"),
    exposed_collective_share=spent.exposed / spent.seconds,
    predicted_mfu=model_flops
    / (spent.seconds * pod.chips * pod.generation.flops),
    bound=f"{bound}, {timed[bound].added / spent.seconds:.0%} of the step",
  )


def _time(spent: roofline.Time) -> dict[str, reports.Seconds]:
  """Say what compute, memory and networks take, and add to the step.

  What is exposed of a collective over both networks counts for each by what it
  takes there.
  """
  sent = list(spent.collectives.values())
  ici, dcn = sum(c.ici for c in sent), sum(c.dcn for c in sent)
  waits = {"ICI": 0.0, "DCN": 0.0}
  for c in sent:
    if c.ici + c.dcn:
      waits["ICI"] += c.exposed * c.ici / (c.ici + c.dcn)
      waits["DCN"] += c.exposed * c.dcn / (c.ici + c.dcn)
  compute = spent.sum("compute")
  return {
    "compute": reports.Seconds(compute, compute),
    "memory": reports.Seconds(
      spent.sum("memory"), spent.sum("seconds") - compute
    ),
    "ICI": reports.Seconds(ici, waits["ICI"]),
    "DCN": reports.Seconds(dcn, waits["DCN"]),
    "copies": reports.Seconds(spent.copied, spent.copies),
  }
