"""MoCha-30B, the paper's model (arXiv 2503.23307, section 4.1), on v5p-1024.

48 layers of width 6,144: 28.991 B parameters in attention and feed-forward
parts, 7.248 B in speech attention, 0.226 B in the shared modulation, 0.055 B
in the speech projector, 0.042 B in the text projections.

  mocha data encode --config mocha_30b
  mocha train --config mocha_30b

on 512 chips, with the paths of what others trained as overrides:
--config.codec.weights=..., --config.speech_encoder.weights=..., and
--config.text_encoder.ul2.weights=... and .tokenizer=..., so too metaclip; byt5
needs no tokenizer.

`mocha compile --config mocha_30b` prints: 75.6 of 95.0 GiB; 3.1 % of the
forward pass computed again; exposed collectives 6.2 % of a step of 76.7 s;
predicted MFU 72.3 %.

Clips of 768 x 704 need no padding either: 48 x 44 = 2,112 tokens a frame, with
--config.clip.height=704 --config.clip.width=768.
"""

from ml_collections import ConfigDict

from experiments import _base, _codecs, _encoders


def get_config() -> ConfigDict:
  config = _base.get_config()
  # 125 frames at 24 fps are 5.2 s; on the causal grid 32 latent frames.
  config.clip = dict(
    frames=125, fps=24, height=512, width=1024, sample_rate=16_000
  )
  _codecs.use_wan_vae(config)
  config.speech_encoder = ConfigDict(_encoders.wav2vec2_base())
  config.text_encoder = ConfigDict(
    dict(
      ul2=_encoders.ul2(),
      byt5=_encoders.byt5_small(),
      metaclip=_encoders.metaclip(),
    )
  )

  model = config.model
  model.update(layers=48, width=6144, ffn=16_384, heads=48, head=128)
  # 1,024 x 512 pixels / 8 / 2 = 64 x 32 = 2,048 tokens a frame, 65,536 a clip.
  model.update(max_frames=33, max_rows=66, max_columns=66)
  # wav2vec2-base: 12 layers x 768 numbers per video frame.
  model.speech = dict(
    features=9216,
    context=5,
    hidden=512,
    attention="window",
    order="none",
    edge="clip",
    position="none",
    implementation="auto",
  )
  model.frozen_text = dict(ul2=4096, byt5=1472, metaclip=1280)
  model.small_text = None
  model.update(noise_skip=False, dtype="bfloat16")
  # A clip lies on 8 chips, 4 frames and, in self-attention, 6 heads on each:
  # 8,192 tokens x 6,144 x 2 bytes = 101 MB per number kept per width and layer.
  # 14.3 of them (1 of input, 3 qkv, 2 x 2.7 gate and up, 3 text, 1 each of
  # attention and down) x 48 layers = 69 GB.
  config.mesh.update(fsdp=-1, context=8)
  model.remat = "attention+down+qkv+gate+up+text"
  # 512 clips = 64 at a time x 8.
  config.step.accumulate = 8

  # Each stage halves what came before and gives 40 % to a harder kind.
  config.data.batch_size = 512
  config.data.stages = (
    dict(steps=10_000, weights=dict(text_only=0.2, close_up=0.8)),
    dict(
      steps=10_000,
      weights=dict(text_only=0.2, close_up=0.4, medium_close_up=0.4),
    ),
    dict(
      steps=10_000,
      weights=dict(
        text_only=0.2, close_up=0.2, medium_close_up=0.2, medium=0.4
      ),
    ),
    dict(
      steps=10_000,
      weights=dict(
        text_only=0.2,
        close_up=0.1,
        medium_close_up=0.1,
        medium=0.2,
        dialogue=0.4,
      ),
    ),
  )
  config.train.update(
    total_steps=40_000, log_every=100, save_every=1000, keep=3
  )
  config.step.ema = 0.9999
  config.optim.update(
    learning_rate=1e-5, warmup_steps=2000, schedule="constant"
  )
  config.sample.update(speech_guidance=7.5, text_guidance=7.5)
  return config
