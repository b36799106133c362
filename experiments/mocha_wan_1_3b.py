"""Wan2.1 T2V 1.3B taught to hear: its speech path alone is trained, on v5e-64.

30 layers of width 1,536: 1.419 B parameters of Wan's own, frozen, and 0.336 B
of speech attention and its projector.

  mocha import --config mine.py --from Wan2.1-T2V-1.3B-Diffusers --run runs/wan
  mocha train --config mine.py --run runs/wan

mine.py names data and the encoders' files, as the README shows. More is
trained with --config.trainable.preset=speech+self_attention or full, or by
=speech+lora and --config.model.lora.rank=32, which import must be told too.

`mocha compile --config mocha_wan_1_3b` prints: 8.4 of 15.8 GiB; 20.7 % of the
forward pass computed again; exposed collectives 2.2 % of a step of 6.0 s;
predicted MFU 64.7 %.
"""

from ml_collections import ConfigDict

from experiments import _base, _codecs, _encoders


def get_config() -> ConfigDict:
  config = _base.get_config()
  # As Wan was trained: 81 frames at 16 fps are 5.1 s, 21 latent frames.
  config.clip = dict(
    frames=81, fps=16, height=480, width=832, sample_rate=16_000
  )
  _codecs.use_wan_vae(config)
  config.speech_encoder = ConfigDict(_encoders.wav2vec2_base())
  config.text_encoder = ConfigDict(_encoders.umt5_xxl())

  config.model = ConfigDict(
    dict(
      name="wan",
      layers=30,
      width=1536,
      ffn=8960,
      heads=12,
      head=128,
      channels=16,
      patch=2,
      ratio=4,
      causal=True,
      # 832 x 480 pixels / 8 / 2 = 1,560 tokens a frame, 32,760 a clip.
      max_frames=21,
      speech=dict(
        features=9216,  # wav2vec2-base: 12 layers x 768 per video frame.
        context=5,
        hidden=512,
        attention="window",
        order="slots",
        edge="clip",
        position="none",
        implementation="auto",
      ),
      frozen_text=dict(umt5=4096),
      small_text=None,
      dtype="bfloat16",
      attention="auto",
      # A clip lies on one chip: 32,760 tokens x 1,536 x 2 bytes = 101 MB, of
      # which 2 (input and attention) x 30 layers are 6 of 16 GB.
      remat="attention",
      lora=dict(
        rank=0,
        alpha=32.0,
        targets=(
          "self_attention.query",
          "self_attention.key",
          "self_attention.value",
          "self_attention.out",
        ),
      ),
    )
  )
  config.trainable.preset = "speech"
  config.mesh.update(fsdp=-1, context=1)

  # 64 clips x 32,760 tokens = 2.1 M tokens per step.
  config.data.batch_size = 64
  config.data.stages = (
    dict(steps=5000, weights=dict(text_only=0.2, close_up=0.8)),
    dict(
      steps=5000,
      weights=dict(text_only=0.2, close_up=0.4, medium_close_up=0.4),
    ),
  )
  config.train.update(
    total_steps=10_000, log_every=100, save_every=1000, keep=3
  )
  config.step.ema = 0.999
  # Wan samples with a shift of 3 at 480p, and 5 at 720p.
  config.flow.shift = 3.0
  config.optim.update(learning_rate=1e-4, warmup_steps=500, schedule="constant")
  config.sample.update(
    schedule="shifted_linear", shift=3.0, speech_guidance=4.0, text_guidance=5.0
  )
  return config
