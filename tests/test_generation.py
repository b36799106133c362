import dataclasses

import numpy as np
import pytest

from mocha_jax.generation import Generator

PROMPT = "A close-up of a man with brown skin and a blue shirt. He talks."


@pytest.fixture(scope="module")
def generator(tiny_run):
  return Generator.from_run(tiny_run)


def generate(generator, count, *, seed=0, **changes):
  settings = dataclasses.replace(generator.settings, **changes)
  speech = [
    np.sin(np.arange(generator.clip.samples) / (9 + i)).astype(np.float32)
    for i in range(count)
  ]
  return generator.generate(
    [PROMPT] * count, speech, seed=seed, settings=settings
  )


def test_frames_last_as_long_as_the_speech(generator):
  clip = generator.clip
  assert generator.frames_for(np.zeros(clip.samples)) == clip.frames
  assert generator.frames_for(np.zeros(1)) == generator.codec.time
  one_more = clip.samples * (clip.frames - 3) // clip.frames
  assert generator.frames_for(np.zeros(one_more)) == clip.frames


def test_clip_does_not_depend_on_how_clips_are_batched(generator):
  together = generate(generator, 3, batch_size=4)
  apart = generate(generator, 3, batch_size=2)
  assert together.shape == apart.shape == (3, 16, 64, 64, 3)
  # Other batches may round another way: by one level of 255 at most.
  assert np.abs(together.astype(int) - apart).max() <= 1


def test_seed_decides_the_clip(generator):
  first, again = generate(generator, 1), generate(generator, 1)
  other = generate(generator, 1, seed=1)
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_shifted_linear_schedule_samples_too(generator):
  clip = generate(generator, 1, schedule="shifted_linear", shift=3.0)
  assert clip.shape == (1, 16, 64, 64, 3)


def test_prompt_is_brought_to_the_form_of_training(generator):
  loose = "One video clip.\nCharacters:\n(Person1)A man.\nFirst clip: Person1."
  (checked,) = generator.check([loose])
  assert "- Person1: A man" in checked
  assert generator.check([checked]) == [checked]


def test_prompt_that_is_too_long_is_refused_before_sampling(generator):
  with pytest.raises(ValueError, match="limit"):
    generator.check(["word " * 1000])
