"""Raw records become encoded ones: what a model is trained on, made once.

Beside the records lie the codec, fitted to the training clips if it has no
weights of its own, and the encoding of the empty prompt, which stands in for a
prompt that is dropped.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from threadpoolctl import threadpool_limits

from data_pipelines import progress, provenance, records, staging
from mocha_jax import codecs, encoders
from mocha_jax.config import difference
from mocha_jax.media import ClipFormat
from mocha_jax.sections import section

CODEC = "codec.npz"
NULL_TEXT = "null_text.npz"

# The codec is fitted to this many training clips, drawn with this seed: with
# 768 numbers in a block, 200 clips of 768 blocks are 200 blocks a number.
_FIT = dict(clips=200, seed=0)
# Clips whose sounds and prompts an encoder is given together.
_TOGETHER = 16


def encode(
  config: ConfigDict,
  *,
  raw: str | os.PathLike[str] | None = None,
  encoded: str | os.PathLike[str] | None = None,
  overwrite: bool = False,
  beam_flags: Sequence[str] | None = None,
) -> pathlib.Path:
  """Encode <data.root>/raw into <data.root>/encoded; return that folder.

  Folders can be given instead. Records that were made from the same raw
  records with the same config are left as they are. With `beam_flags` a Beam
  pipeline encodes (`--runner=...` says where), else this process. Raises
  ValueError for records of another config, naming the keys that differ,
  unless `overwrite`; for weights that are missing or are of another encoder;
  for a raw record that does not fit the config; and where another process
  writes the folder. What was there stays until all is encoded.
  """
  given = config.to_dict()
  root = pathlib.Path(given["data"]["root"])
  raw = pathlib.Path(raw or root / records.RAW)
  encoded = pathlib.Path(encoded or root / records.ENCODED)
  clip = section(ClipFormat, given["clip"], "clip")
  codec_config = codecs.make_config(given["codec"])
  speech_encoder = encoders.make_speech_encoder(given["speech_encoder"])
  text_encoders = encoders.make_text_encoders(given["text_encoder"])
  counts = _raw_splits(raw, clip)
  metadata = _metadata(given, raw, counts)
  if records.exists(encoded) and not overwrite:
    provenance.check_same(encoded, metadata)
    print(f"{encoded} is up to date")
    return encoded

  encoders.check_files([speech_encoder, *text_encoders.values()])
  _check_prompts(raw, counts, text_encoders)
  # The products of one clip are small: more threads only wait for each other.
  with threadpool_limits(1), staging.folder(encoded) as stage:
    codec = codecs.fit(codec_config, _training_clips(raw, counts, clip))
    codec.save(stage / CODEC)
    _save_null_text(stage / NULL_TEXT, text_encoders)
    encoders_of = {
      split: ClipEncoder(
        records.read(raw, split), clip, codec, speech_encoder, text_encoders
      )
      for split in counts
    }
    make = _progress if beam_flags is None else _transform
    if beam_flags is not None:  # Who encodes then reads the weights itself.
      encoders.release([speech_encoder, *text_encoders.values()])
    records.write(
      stage,
      {split: make(encoder) for split, encoder in encoders_of.items()},
      kind=records.ENCODED,
      metadata=metadata | {provenance.DIGESTS: provenance.digests(metadata)},
      text={name: encoder.width for name, encoder in text_encoders.items()},
      beam_flags=beam_flags or (),
    )
    staging.move(stage, encoded, records.NAME, CODEC, NULL_TEXT)
  encoders.release([speech_encoder, *text_encoders.values()])
  print(f"wrote {encoded}")
  return encoded


def load_codec(encoded: str | os.PathLike[str]) -> codecs.Codec:
  """Read the codec of a folder of encoded records."""
  return codecs.load(pathlib.Path(encoded) / CODEC)


def load_null_text(
  encoded: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Read ids or features, and masks, of the empty prompt, by encoder."""
  path = pathlib.Path(encoded) / NULL_TEXT
  if not path.is_file():
    raise ValueError(f"no encoding of the empty prompt, {path}")
  text, masks = {}, {}
  with np.load(path, allow_pickle=False) as file:
    for key in file.files:
      kind, _, name = key.partition("/")
      (text if kind == "text" else masks)[name] = file[key]
  return text, masks


@dataclasses.dataclass(frozen=True)
class ClipEncoder:
  """Encodes the raw records of indices; can be sent to another machine."""

  source: records.Records
  clip: ClipFormat
  codec: codecs.Codec
  speech_encoder: encoders.SpeechEncoder
  text_encoders: Mapping[str, encoders.TextEncoder]

  def __call__(self, indices: Sequence[int]) -> list[records.Record]:
    """Return the encoded records; ValueError names the raw one."""
    made = [*map(self._visible, indices)]
    sounds, prompts = zip(*(heard for _, heard in made), strict=True)
    speech = self._speech(sounds)
    text = {
      name: encoder.many(prompts)
      for name, encoder in self.text_encoders.items()
    }
    return [
      record
      | dict(
        speech=speech[i].astype(np.float16),
        text={name: tokens[i] for name, (tokens, _) in text.items()},
        text_mask={name: mask[i] for name, (_, mask) in text.items()},
      )
      for i, (record, _) in enumerate(made)
    ]

  def _visible(
    self, index: int
  ) -> tuple[records.Record, tuple[np.ndarray, str]]:
    """Return what is not encoded with others; and sound and prompt."""
    record = self.source[index]
    with _naming(record, self.source):
      _check_frames(record["frames"], self.clip)
      latents = self.codec.encode(record["frames"])
    kept = {key: record[key] for key in ("name", "kind", "prompt")}
    kept["latents"] = latents.astype(np.float16)
    return kept, (record["speech"], record["prompt"])

  def _speech(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
    """Encode the sounds; where there is none, vectors are zero."""
    shape = (len(sounds), self.clip.frames, self.speech_encoder.width)
    out = np.zeros(shape, np.float32)
    heard = [i for i, samples in enumerate(sounds) if len(samples)]
    if heard:
      out[heard] = self.speech_encoder.many(
        [sounds[i] for i in heard],
        sample_rate=self.clip.sample_rate,
        fps=self.clip.fps,
        frames=self.clip.frames,
      )
    return out


def _progress(encoder: ClipEncoder) -> Iterable[records.Record]:
  title = f"encode {encoder.source.split}"
  made = (record for group in _groups(encoder) for record in encoder(group))
  return progress.track(made, title, total=len(encoder.source))


def _transform(encoder: ClipEncoder) -> Any:
  import apache_beam as beam

  groups = [*_groups(encoder)]
  return beam.Create(groups) | beam.Reshuffle() | beam.FlatMap(encoder)


def _groups(encoder: ClipEncoder) -> Iterator[range]:
  """Yield the indices of the clips that are encoded together."""
  count = len(encoder.source)
  for start in range(0, count, _TOGETHER):
    yield range(start, min(start + _TOGETHER, count))


def _raw_splits(raw: pathlib.Path, clip: ClipFormat) -> dict[str, int]:
  """Return the splits of raw records that were cut as `clip` says."""
  counts = records.splits(raw)
  if records.kind(raw) != records.RAW:
    raise ValueError(f"{raw} holds {records.kind(raw)} records, not raw ones")
  about = records.metadata(raw)
  if "clip" in about:
    differing = difference(
      ConfigDict(about["clip"]), ConfigDict(dataclasses.asdict(clip))
    )
    for key, (there, here) in differing.items():
      raise ValueError(
        f"config.clip.{key} = {here}, but the clips in {raw} have {there}"
      )
  if not any(split.startswith("train_") for split in counts):
    raise ValueError(
      f"no training split in {raw}, whose names begin with train_; it has"
      f" {', '.join(counts)}"
    )
  return counts


def _metadata(
  config: Mapping[str, Any], raw: pathlib.Path, counts: Mapping[str, int]
) -> dict[str, Any]:
  return {name: config[name] for name in provenance.SECTIONS} | {
    "codec_fit": _FIT,
    "raw": {"splits": dict(counts), "metadata": records.metadata(raw)},
  }


def _training_clips(
  raw: pathlib.Path, counts: Mapping[str, int], clip: ClipFormat
) -> Iterable[np.ndarray]:
  """Yield the frames of a random choice of training clips."""
  sources = {split: records.read(raw, split) for split in counts}
  clips = [
    (split, index)
    for split in sorted(counts)
    if split.startswith("train_")
    for index in range(counts[split])
  ]
  order = np.random.default_rng(_FIT["seed"]).permutation(len(clips))
  chosen = sorted(order[: _FIT["clips"]])
  for choice in progress.track(chosen, "fit the codec", total=len(chosen)):
    split, index = clips[choice]
    record = sources[split][index]
    with _naming(record, sources[split]):
      _check_frames(record["frames"], clip)
    yield record["frames"]


def _check_prompts(
  raw: pathlib.Path,
  counts: Mapping[str, int],
  text_encoders: Mapping[str, encoders.TextEncoder],
) -> None:
  """Refuse prompts that are too long, before hours of encoding."""
  for split in counts:
    source = records.read(raw, split)
    for record in source.texts():
      with _naming(record, source):
        for encoder in text_encoders.values():
          encoder.tokens(record["prompt"])


@contextlib.contextmanager
def _naming(record: records.Record, source: records.Records) -> Iterator[None]:
  """Say which record an error is about."""
  try:
    yield
  except ValueError as error:
    where = f"record {record['name']!r} of {source.directory}"
    raise ValueError(f"{where}: {error}") from error


def _check_frames(frames: np.ndarray, clip: ClipFormat) -> None:
  wanted = (clip.frames, clip.height, clip.width, 3)
  if frames.shape != wanted:
    raise ValueError(
      f"frames are {list(frames.shape)}; config.clip wants {list(wanted)}"
    )


def _save_null_text(
  path: pathlib.Path, text_encoders: Mapping[str, encoders.TextEncoder]
) -> None:
  arrays = {}
  for name, encoder in text_encoders.items():
    arrays[f"text/{name}"], arrays[f"text_mask/{name}"] = encoder("")
  with path.open("wb") as file:
    np.savez(file, **arrays)
