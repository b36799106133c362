"""Eight real clips by heart: does everything work on real pictures and speech?

  mocha data ingest CLIPS --captions captions.csv --speech SPEECH \
    --config overfit_real
  mocha data encode --config overfit_real
  mocha train --config overfit_real
  mocha score runs/overfit_real

4 s at 24 fps on the causal grid, 64 x 112 pixels. The score samples the
training clips from their own captions and speech: psnr is against the clip
as the codec gives it back.
"""

from ml_collections import ConfigDict

from experiments import _base


def get_config() -> ConfigDict:
  config = _base.get_config()
  config.data.root = "data/overfit_real"
  # 97 frames on the causal grid: 1 + 24 latent frames.
  config.clip.update(frames=97, height=64, width=112)
  config.codec.update(
    causal=True, motion_weight=1.0, color_weights=(1.0, 1.0, 1.0)
  )
  config.text_encoder.length = 192
  config.model.update(max_frames=25, max_rows=4, max_columns=7)

  # 4 clips x 25 latent frames x 28 tokens = 2,800 tokens per step.
  config.data.update(batch_size=4, text_dropout=0.0)
  config.data.stages = (dict(steps=1, weights=dict(close_up=1.0)),)
  config.train.total_steps = 1500
  config.optim.decay_steps = 1500
  # To know a clip by heart is to follow the model, not to exaggerate it.
  config.sample.update(speech_guidance=1.0, text_guidance=1.0, batch_size=8)
  config.score.update(
    split="train_close_up", clips=8, headline_kinds=("close_up",)
  )
  return config
