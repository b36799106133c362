"""From prompts and speech to frames, with the model of a run."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mocha_jax import encoders, prompts, run, sharding
from mocha_jax.batch import Condition
from mocha_jax.diffusion import guidance, sample
from mocha_jax.media import ClipFormat
from mocha_jax.models import make_config
from mocha_jax.models.backbone import project
from mocha_jax.sections import section
from mocha_jax.training.checkpoint import open_newest


class Generator:
  """Samples clips from a run's averaged parameters."""

  def __init__(self, opened: run.Run):
    given = opened.config.to_dict()
    self.config = opened.config
    self.codec = opened.codec()
    self.clip = section(ClipFormat, given["clip"], "clip")
    self.settings = section(sample.SampleConfig, given["sample"], "sample")
    self._model = make_config(given["model"])
    self._speech_encoder = encoders.make_speech_encoder(given["speech_encoder"])
    self._text_encoders = encoders.make_text_encoders(given["text_encoder"])
    opened.check_files(self._encoders)
    self._network = run.make_network(self.config)
    self._mesh = sharding.make_mesh(sharding.MeshConfig(1, -1, 1, 1, 1))
    self.step, self.params = self._restore(opened)

  @classmethod
  def from_run(cls, folder: pathlib.Path) -> "Generator":
    """Open a run folder with at least one checkpoint.

    Raises:
      FileNotFoundError: no run folder, or one without a checkpoint.
      ValueError: what an encoder needs is not where the run says.
    """
    return cls(run.open_run(folder))

  def _restore(self, opened: run.Run):
    checkpointer = open_newest(opened.checkpoints)
    like = jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
      self._network.shapes,
      self._network.shardings(self._mesh),
    )
    params = checkpointer.restore_average(like, self._network.trained(like))
    checkpointer.close()
    return checkpointer.latest, params

  @property
  def _encoders(self):
    return [self._speech_encoder, *self._text_encoders.values()]

  def frames_for(self, speech: Float[np.ndarray, "A"]) -> int:
    """Return how many frames the speech lasts, on the codec's grid.

    Raises:
      ValueError: longer than the model allows.
    """
    # A frame for all but the last sample: lengths in frames are rounded.
    needed = max(
      1, -(-(len(speech) - 1) * self.clip.fps // self.clip.sample_rate)
    )
    ratio, causal = self._model.ratio, self._model.causal
    frames = -(-(needed - causal) // ratio) * ratio + causal
    self._check_limit(
      frames, f"speech of {needed / self.clip.fps:.2f} s needs {frames} frames"
    )
    return frames

  def check_frames(self, frames: int) -> None:
    """Find out whether clips can have so many frames.

    Raises:
      ValueError: they are more than the model allows, or do not divide.
    """
    seconds = frames / self.clip.fps
    self._check_limit(frames, f"{frames} frames last {seconds:.2f} s")
    self.codec.latent_shape(frames, self.clip.height, self.clip.width)

  def _check_limit(self, frames: int, said: str) -> None:
    limit = self._model.max_video_frames
    if frames > limit:
      raise ValueError(
        f"{said}; the model allows {limit}, {limit / self.clip.fps:.2f} s "
        f"(config.model.max_frames = {self._model.max_frames}, which can be "
        "raised before `mocha import` or before training from scratch alone)"
      )

  def check(self, texts: Sequence[str]) -> list[str]:
    """Return the prompts in the form that training saw.

    Raises:
      ValueError: one names a person it never describes, or is too long for
        the text encoder.
    """
    texts = [prompts.format(prompts.parse(text)) for text in texts]
    for text in texts:
      for encoder in self._text_encoders.values():
        encoder.tokens(text)
    return texts

  def generate(
    self,
    texts: Sequence[str],
    speech: Sequence[Float[np.ndarray, "A"]],
    *,
    seed: int,
    frames: int | None = None,
    settings: sample.SampleConfig | None = None,
  ) -> UInt8[np.ndarray, "B F H W 3"]:
    """Return a clip for each prompt and its speech (empty: no speech).

    speech: mono at the clip's sample rate. frames: of every clip, those of
    the training clips unless given. Clip i depends on its own prompt, speech,
    the seed and i alone.

    Raises:
      ValueError: a prompt names a person it never describes, or is too long
        for the text encoder; or frames that the model does not allow.
    """
    settings = settings or self.settings
    frames = self.clip.frames if frames is None else frames
    self.check_frames(frames)
    texts = self.check(texts)
    keys = jax.random.split(jax.random.key(seed), len(texts))
    shards = sharding.batch_shards(self._mesh)
    size = -(-min(settings.batch_size, len(texts)) // shards) * shards
    given = self._condition(texts, speech, frames)
    null = self._condition([""], [np.zeros(0)], frames)
    encoders.release(self._encoders)  # Their memory is the sampler's now.
    clips = []
    for start in range(0, len(texts), size):
      chosen = np.minimum(np.arange(start, start + size), len(texts) - 1)
      latents = self._latents(
        jax.tree.map(lambda x, i=chosen: x[i], given),
        jax.tree.map(lambda x: np.repeat(x, size, axis=0), null),
        keys[chosen],
        frames,
        settings,
      )
      clips.append(self.codec.decode(latents[: len(texts) - start]))
    return np.concatenate(clips)

  def _latents(self, condition, null, keys, frames: int, settings):
    shape = self.codec.latent_shape(frames, self.clip.height, self.clip.width)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    place = lambda x: sharding.place(jax.device_get(x), self._mesh)
    with jax.set_mesh(self._mesh):
      latents = self._sampler(settings)(
        self.params, place(noise), place(condition), place(null)
      )
    return np.asarray(latents)

  @functools.cache  # noqa: B019
  def _sampler(self, settings: sample.SampleConfig):
    scale = guidance.Guidance(
      speech=settings.speech_guidance, text=settings.text_guidance
    )

    at = sample.times(settings)

    def sampler(params, noise, condition, null):
      model: Any = self._network.bind(params)
      # Once a clip, not once a step.
      given, nothing = project(model, condition), project(model, null)
      guided = guidance.nested(model.velocity, nothing, scale)
      return sample.euler(guided, noise, given, at)

    return jax.jit(sampler)

  def _condition(self, texts, speech, frames: int) -> Condition:
    """Encode clips; an empty speech is the null speech, zero vectors."""
    width = self._speech_encoder.width
    vectors: Any = np.zeros((len(speech), frames, width), np.float32)
    heard = [i for i, samples in enumerate(speech) if len(samples)]
    if heard:
      vectors[heard] = self._speech_encoder.many(
        [speech[i].astype(np.float32) for i in heard],
        sample_rate=self.clip.sample_rate,
        fps=self.clip.fps,
        frames=frames,
      )
    text, mask = {}, {}
    for name, encoder in self._text_encoders.items():
      text[name], mask[name] = encoder.many(texts)
    return Condition(vectors, text, mask)


def replace(
  settings: sample.SampleConfig, **changes: float | int | None
) -> sample.SampleConfig:
  """Return settings with those changes that are not None."""
  given = {k: v for k, v in changes.items() if v is not None}
  return dataclasses.replace(settings, **given)
