"""The backbone as two programs: what is done once a clip, and once a step."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mocha_jax.batch import Condition
from mocha_jax.diffusion import guidance
from mocha_jax.encoders import make_text_encoders
from mocha_jax.export.stablehlo.program import Arrays, Program, array
from mocha_jax.models import make_config, make_model
from mocha_jax.models.backbone import Projected, project
from mocha_jax.network import Network, nested
from mocha_jax.weights.tables import Stored

_PROJECTING = ("text.", "speech.")  # What `project` takes of the parameters.
_BY_XLA = {"implementation": "xla"}
_PROJECTED = tuple(field.name for field in dataclasses.fields(Projected))


def programs(
  given: Mapping[str, Any],
  grid: tuple[int, ...],
  parameters: Mapping[str, Stored],
  b: Any,
) -> dict[str, Program]:
  """Return `project` and `denoise`.

  given: the config. grid: [f h w c] of a clip's latents. b: number of clips.
  """
  model = given["model"]
  config = make_config(
    model | {"attention": "xla", "speech": model["speech"] | _BY_XLA}
  )
  network = Network(lambda rngs: make_model(config, rngs=rngs))

  def bind(parameters: Arrays) -> Any:
    return network.bind(nested(parameters, ""))

  def projected(parameters: Arrays, inputs: Arrays) -> Arrays:
    out = project(bind(parameters), _to_condition(inputs))
    return {"speech": out.speech, "text": out.text, "text_mask": out.text_mask}

  def denoised(parameters: Arrays, inputs: Arrays) -> Arrays:
    x = inputs["latents"]
    part = lambda prefix: Projected(
      **{name: inputs[prefix + name] for name in _PROJECTED}
    )
    scale = guidance.Guidance(
      speech=inputs["speech_guidance"], text=inputs["text_guidance"]
    )
    model = guidance.nested(bind(parameters).velocity, part("null_"), scale)
    t = jnp.broadcast_to(inputs["t"], x.shape[:1])
    return {"velocity": model(x, t, part(""))}

  of = lambda projecting: {
    path: x
    for path, x in parameters.items()
    if path.startswith(_PROJECTING) == projecting
  }
  first = Program(projected, of(True), _condition(given, b))
  told = jax.eval_shape(first.call, first.shapes, first.inputs)
  scales = ("t", "speech_guidance", "text_guidance")
  inputs = {
    "latents": array("float32", b, *grid),
    **{name: array("float32") for name in scales},
    **told,
    **{f"null_{name}": x for name, x in told.items()},
  }
  return {"project": first, "denoise": Program(denoised, of(False), inputs)}


def _condition(given: Mapping[str, Any], b: Any) -> Arrays:
  """Return the shapes of what B clips are conditioned on, by name."""
  frames = given["clip"]["frames"]
  features = given["model"]["speech"]["features"]
  inputs = {"speech": array("float32", b, frames, features)}
  for name, encoder in make_text_encoders(given["text_encoder"]).items():
    length, width = encoder.length, encoder.width
    inputs[f"text.{name}"] = (
      array("float32", b, length, width) if width else array("int32", b, length)
    )
    inputs[f"text_mask.{name}"] = array("bool", b, length)
  return inputs


def _to_condition(inputs: Arrays) -> Condition:
  of = lambda prefix: {
    name.removeprefix(prefix): x
    for name, x in inputs.items()
    if name.startswith(prefix)
  }
  return Condition(inputs["speech"], of("text."), of("text_mask."))
