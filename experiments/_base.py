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
    dict(name="linear", time=4, space=8, channels=32, causal=False)
  )
  # 4 hops of 32 mel bands, 10.4 ms each: 128 numbers per video frame.
  config.speech_encoder = ConfigDict(
    dict(name="log_mel", mels=32, hops_per_frame=4)
  )
  config.text_encoder = ConfigDict(
    dict(name="small_text", unit="words", vocabulary=4096, length=96)
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
  return config
