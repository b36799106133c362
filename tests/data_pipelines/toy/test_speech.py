import concurrent.futures
import multiprocessing
import sys

import numpy as np
import pytest

from data_pipelines.toy import speech
from data_pipelines.toy.speech import Voice, synthesise

TEXT = "Bob put my paper boat above the moon."
ANNA = Voice("en-us+f4", pitch=55, rate=130)
OTTO = Voice("en-gb-scotland+m3", pitch=35, rate=115)


def test_same_request_gives_same_speech_whatever_was_said_before():
  first = synthesise(TEXT, ANNA, sample_rate=16_000)
  synthesise("Something else, for a change.", OTTO, sample_rate=16_000)
  again = synthesise(TEXT, ANNA, sample_rate=16_000)
  np.testing.assert_array_equal(first.samples, again.samples)
  assert first.phonemes == again.phonemes


def test_another_process_says_the_same():
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
    there = pool.submit(synthesise, TEXT, OTTO, sample_rate=8_000).result()
  here = synthesise(TEXT, OTTO, sample_rate=8_000)
  np.testing.assert_array_equal(here.samples, there.samples)


def test_phonemes_come_in_order_and_within_the_speech():
  spoken = synthesise(TEXT, ANNA, sample_rate=16_000)
  starts = [p.start for p in spoken.phonemes]
  assert starts == sorted(starts)
  assert starts[0] >= 0 and starts[-1] <= spoken.seconds + 0.01
  assert [p.ipa for p in spoken.phonemes][:3] == ["b", "ˈɑː", "b"]


def test_speech_lasts_as_long_at_any_sample_rate():
  low = synthesise(TEXT, ANNA, sample_rate=8_000)
  high = synthesise(TEXT, ANNA, sample_rate=24_000)
  assert abs(low.seconds - high.seconds) < 1e-3
  assert low.phonemes == high.phonemes


def test_higher_rate_is_faster_speech():
  fast = Voice(ANNA.name, ANNA.pitch, 2 * ANNA.rate)
  slow = synthesise(TEXT, ANNA, sample_rate=8_000)
  assert synthesise(TEXT, fast, sample_rate=8_000).seconds < slow.seconds


def test_unknown_voice_is_refused_by_name():
  with pytest.raises(ValueError, match="no voice 'nobody'"):
    synthesise(TEXT, Voice("nobody", 50, 130), sample_rate=16_000)


def test_missing_extra_says_what_to_install(monkeypatch):
  speech._paths.cache_clear()
  monkeypatch.setitem(sys.modules, "espeakng_loader", None)
  with pytest.raises(ImportError, match=r"pip install mocha_jax\[toy\]"):
    synthesise(TEXT, ANNA, sample_rate=16_000)
