"""From a prompt and speech to a video, by flow matching with nested guidance.

  v = v(-, -) + s_a [v(-, a) - v(-, -)] + s_t [v(t, a) - v(-, a)]

with v(text, speech) the transformer's velocity and - for null: the encoding of
the empty prompt, and zero vectors in place of speech.

  pipeline = DiffusionPipeline.from_pretrained(
    FOLDER, custom_pipeline="pipeline_mocha", trust_remote_code=True
  )
  frames = pipeline("A close-up of a man. He talks.", "speech.wav").frames[0]
"""

import dataclasses
import os

import numpy as np
import soundfile
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor

# Both lie beside this file in an exported folder.
from .prompts import format as format_prompt
from .prompts import parse as parse_prompt
from .resampling import resample


@dataclasses.dataclass
class MochaPipelineOutput(BaseOutput):
  """A video per prompt: frames [B F H W 3] in 0..1, or as was asked for."""

  frames: object


class MochaPipeline(DiffusionPipeline):
  """Makes videos of people who speak.

  transformer: predicts velocities, see its file. vae: latents to frames.
  speech_encoder: a waveform to one vector per video frame.
  tokenizer, text_encoder: of the text that `text_names` lists first, the
    others' follow; without a text encoder the transformer reads the ids.
  space: pixels that one latent is high and wide.
  fps, num_frames, height, width, sample_rate: what a clip of training was.
  speech_guidance_scale, text_guidance_scale: s_a and s_t.
  """

  # Each runs at one time only, in this order. A part goes when the next comes,
  # so the one that may not run, for want of speech, is the first.
  model_cpu_offload_seq = (
    "speech_encoder->text_encoder->text_encoder_2->text_encoder_3->"
    "transformer->vae"
  )
  _optional_components = [  # noqa: RUF012
    *("text_encoder", "tokenizer_2", "text_encoder_2"),
    *("tokenizer_3", "text_encoder_3"),
  ]

  def __init__(
    self,
    transformer,
    scheduler,
    vae,
    speech_encoder,
    tokenizer,
    text_encoder=None,
    tokenizer_2=None,
    text_encoder_2=None,
    tokenizer_3=None,
    text_encoder_3=None,
    *,
    text_names: list[str] = (),  # pyright: ignore
    space: int = 8,
    fps: int = 24,
    num_frames: int = 48,
    height: int = 64,
    width: int = 64,
    sample_rate: int = 16_000,
    speech_guidance_scale: float = 1.0,
    text_guidance_scale: float = 1.0,
  ):
    super().__init__()
    self.register_modules(
      transformer=transformer,
      scheduler=scheduler,
      vae=vae,
      speech_encoder=speech_encoder,
      tokenizer=tokenizer,
      text_encoder=text_encoder,
      tokenizer_2=tokenizer_2,
      text_encoder_2=text_encoder_2,
      tokenizer_3=tokenizer_3,
      text_encoder_3=text_encoder_3,
    )
    self.register_to_config(
      text_names=list(text_names),
      space=space,
      fps=fps,
      num_frames=num_frames,
      height=height,
      width=width,
      sample_rate=sample_rate,
      speech_guidance_scale=speech_guidance_scale,
      text_guidance_scale=text_guidance_scale,
    )
    self.video_processor = VideoProcessor(do_resize=False)

  def save_pretrained(self, save_directory: str | os.PathLike, **_) -> None:
    """Refuse: diffusers would write neither tokenizers nor these files."""
    raise NotImplementedError(
      f"{save_directory}: this pipeline is not saved from memory; copy the "
      "folder that it was loaded from"
    )

  @torch.no_grad()
  def __call__(
    self,
    prompt: str | list[str],
    speech=None,
    *,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    speech_guidance_scale: float | None = None,
    text_guidance_scale: float | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    latents: torch.Tensor | None = None,
    output_type: str = "np",
    return_dict: bool = True,
  ) -> MochaPipelineOutput | tuple:
    """Return a video of each prompt, whose people say the speech given.

    speech: a sound file, samples at `sample_rate`, or None for nothing said;
      a list has one for each prompt, anything else is for all of them.
    num_frames: unless given, as long as the longest speech, or as a clip of
      training; the grid of the VAE decides which there are.
    latents: the noise to start from, [B c f h w] of unit variance.
    output_type: "np", "pil", "pt" or "latent".
    """
    given, device = self.config, self._execution_device
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    sounds = speech if isinstance(speech, list) else [speech] * len(texts)
    if len(sounds) != len(texts):
      raise ValueError(f"{len(texts)} prompts, but {len(sounds)} speeches")
    texts = [format_prompt(parse_prompt(text)) for text in texts]
    waves = [self.read_speech(sound) for sound in sounds]
    frames = self.frames_for(waves) if num_frames is None else num_frames
    shape = self.latent_shape(
      frames, height or given.height, width or given.width
    )
    shape = (len(texts), *shape)
    x = latents
    if x is None:
      x = randn_tensor(shape, generator, device, torch.float32)
    if x.shape != shape:
      raise ValueError(f"latents of {tuple(x.shape)}: must be {shape}")
    scales = (
      self._or(speech_guidance_scale, given.speech_guidance_scale),
      self._or(text_guidance_scale, given.text_guidance_scale),
    )
    guided = scales != (1.0, 1.0)
    self.check_scheduler()
    encoded = self.encode(texts, waves, frames, guided)
    x = x.to(device, torch.float32)
    self.scheduler.set_timesteps(num_inference_steps, device)
    with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
      for t in self.scheduler.timesteps:
        velocity = (
          self.guided_velocity(x, t, encoded, *scales)
          if guided
          else self.transformer(x, t.expand(len(x)), encoded).sample
        )
        x = self.scheduler.step(velocity, t, x).prev_sample
        bar.update()
    video = x if output_type == "latent" else self.decode(x, output_type)
    self.maybe_free_model_hooks()
    return MochaPipelineOutput(video) if return_dict else (video,)

  def check_scheduler(self) -> None:
    """Refuse a scheduler whose times are not the transformer's."""
    first, last = self.scheduler.timesteps[[0, -1]].tolist()
    if not 0 <= first <= last < 1:
      raise ValueError(
        f"{type(self.scheduler).__name__} goes from {first:g} to {last:g}: "
        "flow times must rise from 0, noise, to 1, data, as those of "
        "FlowEulerScheduler"
      )

  @staticmethod
  def _or(value, otherwise):
    return otherwise if value is None else value

  def guided_velocity(self, x, t, encoded, speech_scale, text_scale):
    """Return v of the module's equation, from one batch of three parts."""
    velocity = self.transformer(
      torch.cat([x] * 3), t.expand(3 * len(x)), encoded, return_dict=False
    )[0]
    nothing, heard, both = velocity.chunk(3)
    return (
      nothing + speech_scale * (heard - nothing) + text_scale * (both - heard)
    )

  def encode(self, texts: list[str], waves: list, frames: int, guided: bool):
    """Encode text with speech; guided: after null and after speech alone.

    waves: samples [A], or None where nothing is said.
    """
    speech = torch.stack([self.encode_speech(wave, frames) for wave in waves])
    if not guided:
      return self.transformer.encode(speech, *self.encode_text(texts))
    encoded = self.encode_text(["", *texts])  # Nulls once, as row 0.
    given = torch.arange(1, len(texts) + 1, device=speech.device)
    null = torch.zeros_like(given)
    rows = torch.cat([null, null, given])
    text, mask = ({name: x[rows] for name, x in y.items()} for y in encoded)
    speech = torch.cat([torch.zeros_like(speech[:1]), speech])
    rows = torch.cat([null, given, given])
    return self.transformer.encode(speech, text, mask, rows)

  def encode_text(self, texts: list[str]) -> tuple[dict, dict]:
    """Return ids [B L] or features [B L E] and their masks, by encoder."""
    device, text, masks = self._execution_device, {}, {}
    parts = (
      (self.tokenizer, self.text_encoder),
      (self.tokenizer_2, self.text_encoder_2),
      (self.tokenizer_3, self.text_encoder_3),
    )
    names = self.config.text_names
    for name, (tokenizer, encoder) in zip(names, parts, strict=False):
      ids, mask = zip(*map(tokenizer, texts), strict=True)
      text[name] = torch.stack(ids).to(device)
      masks[name] = torch.stack(mask).to(device)
      if encoder is not None:
        out = encoder(input_ids=text[name], attention_mask=masks[name])
        text[name] = out.last_hidden_state * masks[name][..., None]
    return text, masks

  def encode_speech(self, wave, frames: int) -> torch.Tensor:
    """Return a vector per video frame, [S E]; zeros where nothing is said."""
    device = self._execution_device
    if wave is None:
      return torch.zeros(frames, self.speech_encoder.width, device=device)
    return self.speech_encoder(wave.to(device), self.config.fps, frames)

  def read_speech(self, speech) -> torch.Tensor | None:
    """Return samples at `sample_rate`, [A], of a sound file or of samples.

    Floats are in -1..1, whole numbers of 16 or 32 bits take all of their range.
    None, as it is for no speech, where an array has no samples.
    """
    if speech is None:
      return None
    wanted = self.config.sample_rate
    if isinstance(speech, (str, os.PathLike)):
      samples, rate = soundfile.read(speech, dtype="float32", always_2d=True)
      if not len(samples):
        raise ValueError(f"{speech}: holds no sound")
      wave = torch.from_numpy(resample(samples.mean(1), rate, wanted))
    else:
      samples = np.asarray(speech)
      if samples.dtype in (np.int16, np.int32):
        samples = samples / -float(np.iinfo(samples.dtype).min)
      if samples.dtype.kind != "f":
        raise ValueError(
          f"speech of {samples.dtype}: must be floats in -1..1, int16 or int32"
        )
      wave = torch.as_tensor(samples, dtype=torch.float32)
    if wave.ndim != 1:
      raise ValueError(f"speech of {tuple(wave.shape)}: must be mono, [A]")
    if not wave.isfinite().all():
      raise ValueError("speech holds samples that are not finite numbers")
    return wave if len(wave) else None

  def frames_for(self, waves: list) -> int:
    """Return how many frames the longest lasts, on the grid of the VAE."""
    given = self.config
    said = [wave for wave in waves if wave is not None]
    if not said:
      return given.num_frames
    samples = max(map(len, said))
    # A frame for all but the last sample: lengths in frames are rounded.
    needed = max(1, -(-(samples - 1) * given.fps // given.sample_rate))
    ratio, causal = (
      self.transformer.config.ratio,
      self.transformer.config.causal,
    )
    return -(-(needed - causal) // ratio) * ratio + causal

  def latent_shape(self, frames: int, height: int, width: int) -> tuple:
    """Return [c f h w] of the latents of such a video."""
    config, space = self.transformer.config, self.config.space
    steps, rest = divmod(frames - config.causal, config.ratio)
    token = space * config.patch
    if (
      rest
      or steps < 1 - config.causal
      or min(height, width) < 1
      or height % token
      or width % token
    ):
      grid = f"{config.ratio}k{' + 1' if config.causal else ''}"
      raise ValueError(
        f"{frames} frames of {height} x {width}: must be {grid} frames, of "
        f"multiples of {token} pixels"
      )
    limit, fps = self.transformer.max_video_frames, self.config.fps
    if limit is not None and frames > limit:
      raise ValueError(
        f"{frames} frames, {frames / fps:.2f} s: the model allows {limit}, "
        f"{limit / fps:.2f} s"
      )
    size = (height // space, width // space)
    return (config.channels, steps + config.causal, *size)

  def decode(self, latents: torch.Tensor, output_type: str):
    """Turn latents into a video of the type asked for."""
    given = self.vae.config
    if "latents_mean" in given:  # Of a VAE whose latents are not normal.
      column = lambda x: torch.tensor(x, device=latents.device)[
        :, None, None, None
      ]
      latents = latents * column(given.latents_std) + column(given.latents_mean)
    frames = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]
    return self.video_processor.postprocess_video(
      frames.float(), output_type=output_type
    )
