"""What every experiment starts from: all keys, with the values most share.

No experiment of its own: a config that is read has every key written down
here, so that nothing depends on a default hidden in the code.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.seed = 0

  # What a clip is: pixels, frames per second, sound samples per second.
  # 48 frames at 24 fps are 2 s.
  config.clip = ConfigDict(
    dict(frames=48, fps=24, height=64, width=64, sample_rate=16_000)
  )

  # 4x8x8 pixels, 768 numbers, become one latent of `channels` numbers.
  config.codec = ConfigDict(
    dict(
      name="linear",
      time=4,
      space=8,
      channels=40,
      causal=False,
      motion_weight=3.0,
      color_weights=(1.0, 1.0, 3.0),
    )
  )
  # 4 hops of 32 mel bands, 10.4 ms each: 128 numbers per video frame.
  config.speech_encoder = ConfigDict(
    dict(name="log_mel", mels=32, hops_per_frame=4)
  )
  config.text_encoder = ConfigDict(
    dict(name="small_text", unit="words", vocabulary=4096, length=128)
  )

  # How many clips of each kind `mocha data toy` makes, per split.
  config.toy = ConfigDict(
    dict(
      seed=0,
      train=dict(
        text_only=0,
        close_up=0,
        medium_close_up=0,
        medium=0,
        two_shot=0,
        dialogue=0,
      ),
      test=dict(
        text_only=0,
        close_up=0,
        medium_close_up=0,
        medium=0,
        two_shot=0,
        dialogue=0,
        dialogue_aba=0,
      ),
      test_other_language=dict(close_up=0, medium_close_up=0),
    )
  )

  config.data = ConfigDict(
    dict(
      root="data",  # <root>/raw and <root>/encoded hold the records.
      batch_size=16,
      text_dropout=0.1,  # Share of samples with the empty prompt's encoding.
      workers=0,  # Processes that read ahead; 0 reads in a thread.
      # Curriculum: each stage lasts `steps` (the last goes on) and mixes the
      # splits train_<kind> by weight.
      stages=(dict(steps=1, weights=dict(text_only=0.2, close_up=0.8)),),
    )
  )

  # The network. What the codec and the speech encoder decide, follows them.
  config.model = ConfigDict(
    dict(
      name="movie_gen",
      layers=5,
      width=192,
      ffn=512,
      heads=3,
      head=64,
      channels=config.codec.get_ref("channels"),
      patch=2,
      ratio=config.codec.get_ref("time"),
      causal=config.codec.get_ref("causal"),
      max_frames=12,  # 48 frames / 4
      max_rows=4,  # 64 pixels / 8 / patch
      max_columns=4,
      speech=dict(
        features=config.speech_encoder.get_ref("mels")
        * config.speech_encoder.get_ref("hops_per_frame"),
        context=5,
        hidden=512,
        attention="window",
        order="slots",
        edge="clip",
        position="none",
        implementation="auto",
      ),
      frozen_text=ConfigDict(),
      small_text=dict(
        vocabulary=config.text_encoder.get_ref("vocabulary"),
        length=config.text_encoder.get_ref("length"),
        layers=1,
      ),
      noise_skip=True,
      dtype="float32",
      attention="auto",
      remat="full",  # On the CPU memory is slower than arithmetic.
      # Adapters beside projections of a layer, such as "self_attention.query".
      lora=dict(rank=0, alpha=1.0, targets=()),
    )
  )
  # What is trained: "full", "speech", "speech+self_attention", "speech+lora",
  # "lora".
  config.trainable = ConfigDict(dict(preset="full"))
  config.flow = ConfigDict(dict(shift=1.0))
  config.optim = ConfigDict(
    dict(
      learning_rate=1e-3,
      warmup_steps=100,
      schedule="cosine",
      decay_steps=1000,
      b1=0.9,
      b2=0.99,
      eps=1e-8,
      weight_decay=0.01,
      clip_norm=1.0,
      moments="float32",
    )
  )
  config.step = ConfigDict(dict(accumulate=1, ema=0.995))
  config.train = ConfigDict(
    dict(total_steps=1000, log_every=50, save_every=500, keep=2)
  )
  # Devices along each axis; -1 takes what is left.
  config.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1, context=1, slice=1))
  config.sample = ConfigDict(
    dict(
      steps=50,
      schedule="linear_quadratic",
      shift=1.0,
      speech_guidance=2.0,
      text_guidance=2.0,
      batch_size=16,
    )
  )
  # `mocha score` samples so many held-out clips, evenly of all kinds; overall
  # scores are means over the headline kinds (and clips without speech).
  config.score = ConfigDict(
    dict(
      split="test",
      clips=16,
      other_language_clips=4,
      headline_kinds=("close_up", "medium_close_up"),
      seed=1,
    )
  )
  return config
