"""What a clip is on disk: the raw and the encoded record, and their files.

Records lie in ArrayRecord shards that TensorFlow Datasets writes and reads
(without TensorFlow): <directory>/clips/1.0.0. Splits are written into a folder
of another name that takes its own when all is done, so nothing half-written
stays. Within a split records are ordered by a hash of their names, so that raw
and encoded records of the same clips stand in the same order.

RAW (P persons; F frames; K cuts)
  name, kind, prompt  str
  frames      uint8   [F H W 3]
  speech      float32 [A], mono at the clip's sample rate; empty if text only
  mouth       float32 [P F], true opening of the mouth, 0 to 1
  viseme      uint8   [P F], index into VISEMES
  visible     bool    [P F]
  speaker     int32   [F], index of the person who speaks, or -1
  cuts        int32   [K], first frame after each cut
  attributes  str, a JSON list with one dict per person ("[]" where P = 0)

ENCODED
  name, kind, prompt  str
  latents     float16 [f h w c]
  speech      float16 [S E], zeros if text only
  text        {encoder: int32 [L] ids or float32 [L E] features}
  text_mask   {encoder: bool [L]}
"""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

VISEMES = ("rest", "closed", "wide", "round", "teeth", "spread", "small")
KINDS = (
  "text_only",
  "close_up",
  "medium_close_up",
  "medium",
  "two_shot",
  "dialogue",
)
RAW, ENCODED = "raw", "encoded"
NAME = "clips"  # Of the folder with the records, in that of either.

_VERSION = "1.0.0"
# [P F], stored flat: tfds cannot read back an empty array of two open sizes.
_TRACKS = ("mouth", "viseme", "visible")

Record = dict[str, Any]


def raw_features() -> tfds.features.FeaturesDict:
  """Return the schema of a raw record."""
  return tfds.features.FeaturesDict(
    {
      "name": tfds.features.Text(),
      "kind": tfds.features.Text(),
      "prompt": tfds.features.Text(),
      "frames": _tensor((None, None, None, 3), np.uint8, "zlib"),
      "speech": _tensor((None,), np.float32),
      "mouth": _tensor((None,), np.float32),
      "viseme": _tensor((None,), np.uint8),
      "visible": _tensor((None,), np.bool_),
      "speaker": _tensor((None,), np.int32),
      "cuts": _tensor((None,), np.int32),
      "attributes": tfds.features.Text(),
    }
  )


def encoded_features(text: Mapping[str, int]) -> tfds.features.FeaturesDict:
  """Return the schema of an encoded record.

  `text` names the text encoders and the width of their features; 0 stands for
  token ids.
  """
  # Most prompts are shorter than what they are padded to, with zeros.
  tokens = {
    name: _tensor((None, width), np.float32, "zlib")
    if width
    else _tensor((None,), np.int32)
    for name, width in text.items()
  }
  return tfds.features.FeaturesDict(
    {
      "name": tfds.features.Text(),
      "kind": tfds.features.Text(),
      "prompt": tfds.features.Text(),
      "latents": _tensor((None, None, None, None), np.float16),
      "speech": _tensor((None, None), np.float16),
      "text": tokens,
      "text_mask": {name: _tensor((None,), np.bool_) for name in text},
    }
  )


def write(
  directory: str | os.PathLike[str],
  splits: Mapping[str, Any],
  *,
  kind: str,
  metadata: Mapping[str, Any],
  text: Mapping[str, int] | None = None,
  shards: int | None = None,
  beam_flags: Sequence[str] = (),
) -> None:
  """Write the records of each split; all or nothing.

  A split is an iterable of records or a Beam transform that yields them;
  `beam_flags` choose the runner (`--runner=...`, by default in this process).
  `kind` is RAW or ENCODED, the latter with `text` as in `encoded_features`;
  `metadata` is anything that JSON can hold. Raises ValueError where records
  are already there, or where two records of a split share a name; OSError
  where a disk is full.
  """
  directory = pathlib.Path(directory)
  if exists(directory):
    raise ValueError(f"{directory} already holds records; remove them first")
  if not splits:
    raise ValueError(f"no split to write to {directory}")
  if kind not in (RAW, ENCODED):
    raise ValueError(f"{kind=} must be {RAW!r} or {ENCODED!r}")
  features = raw_features() if kind == RAW else encoded_features(text or {})
  about = {"kind": kind, "metadata": dict(metadata)}
  config = tfds.download.DownloadConfig(num_shards=shards)
  if not all(isinstance(records, Iterable) for records in splits.values()):
    config = config.replace(beam_options=beam_options(beam_flags))
  with _quiet(), _failing_as_files_do():
    builder = _Clips(
      splits, features, about, data_dir=directory, file_format="array_record"
    )
    builder.download_and_prepare(
      download_dir=directory / NAME, download_config=config
    )


def exists(directory: str | os.PathLike[str]) -> bool:
  """Return whether the folder holds finished records."""
  return (_folder(directory) / "dataset_info.json").is_file()


def read(directory: str | os.PathLike[str], split: str) -> "Records":
  """Open one split. Raises ValueError naming what is there if it is not."""
  counts = splits(directory)
  if split not in counts:
    raise ValueError(
      f"no split {split!r} in {directory}; it has {', '.join(counts)}"
    )
  return Records(str(directory), split)


def splits(directory: str | os.PathLike[str]) -> dict[str, int]:
  """Return how many records each split of a folder holds."""
  infos = _open(directory).info.splits
  return {name: int(infos[name].num_examples) for name in sorted(infos)}


def metadata(directory: str | os.PathLike[str]) -> dict[str, Any]:
  """Return what `write` was given as metadata."""
  return _about(directory)["metadata"]


def kind(directory: str | os.PathLike[str]) -> str:
  """Return RAW or ENCODED."""
  return _about(directory)["kind"]


@dataclasses.dataclass(frozen=True)
class Records:
  """Random access to the records of one split; opened where it is first used.

  Cheap to pickle, as it carries only the path. Arrays are read-only views.
  """

  directory: str
  split: str

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    if not 0 <= index < len(self):
      raise IndexError(f"{index=} is not in 0..{len(self) - 1}")
    record = _strings(self._source[index])
    if "frames" in record:
      frames = len(record["frames"])
      for track in _TRACKS:
        record[track] = record[track].reshape(-1, frames)
    return record

  def __iter__(self) -> Iterator[Record]:
    return (self[index] for index in range(len(self)))

  def texts(self) -> Iterator[dict[str, str]]:
    """Yield name and prompt of each record; nothing else is decoded."""
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict({"name": text, "prompt": text})
    for record in self._source.data_source:
      found: Any = features.deserialize_example_np(record)
      yield _strings(found)

  def __getstate__(self) -> dict[str, str]:
    return {"directory": self.directory, "split": self.split}

  @functools.cached_property
  def _source(self) -> Any:
    builder: Any = _open(self.directory)
    return builder.as_data_source(split=self.split)


class _Info(tfds.core.DatasetInfo):
  """What tfds keeps about records; it does not look for them in its bucket."""

  def initialize_from_bucket(self):
    # It would leave an empty folder, of `tempfile`, behind.
    pass


class _Clips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes given records; tfds calls its methods."""

  name = NAME
  VERSION = tfds.core.Version(_VERSION)

  def __init__(self, splits, features, about, **kwargs):
    self._splits = splits
    self._features = features
    self._about = about
    super().__init__(**kwargs)

  def _info(self):
    return _Info(
      builder=self,
      features=self._features,
      metadata=tfds.core.MetadataDict(self._about),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      name: self._generate_examples(records)
      for name, records in self._splits.items()
    }

  def _generate_examples(self, records):
    if isinstance(records, Iterable):
      return _distinct(map(_keyed, records))
    import apache_beam as beam

    return records | "Name" >> beam.Map(_keyed)

  def _log_download_bytes(self):
    pass

  def _log_download_done(self):
    pass


def _keyed(record: Record) -> tuple[str, Record]:
  flat = {
    track: np.ascontiguousarray(record[track]).reshape(-1)
    for track in _TRACKS
    if track in record
  }
  return record["name"], record | flat


def _distinct(
  examples: Iterable[tuple[str, Record]],
) -> Iterator[tuple[str, Record]]:
  seen = set()
  for name, record in examples:
    if name in seen:
      raise ValueError(f"two records of one split share the name {name!r}")
    seen.add(name)
    yield name, record


def _strings(record: Record) -> Record:
  return {
    key: value.decode() if isinstance(value, bytes) else value
    for key, value in record.items()
  }


def _tensor(shape, dtype, encoding: str = "bytes") -> tfds.features.Tensor:
  return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)


# Two threads of this process. (Beam's DirectRunner would first look for
# another runner on the network, and leave folders behind.)
_LOCAL = (
  "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
  "--direct_num_workers=2",
  "--direct_running_mode=multi_threading",
)


def beam_options(flags: Sequence[str]):
  """Return Beam's options; without a --runner, of one in this process."""
  from apache_beam.options.pipeline_options import PipelineOptions

  return PipelineOptions([*_LOCAL, *flags])


def _folder(directory: str | os.PathLike[str]) -> pathlib.Path:
  return pathlib.Path(directory) / NAME / _VERSION


def _open(directory: str | os.PathLike[str]) -> tfds.core.DatasetBuilder:
  folder = _folder(directory)
  if not exists(directory):
    raise ValueError(f"no records in {directory}{_neighbours(directory)}")
  with _quiet():
    return tfds.builder_from_directory(folder)


def _neighbours(directory: str | os.PathLike[str]) -> str:
  """Say which folders next to a missing one do hold records."""
  parent = pathlib.Path(directory).parent
  if not parent.is_dir():
    return f": the folder {parent} does not exist"
  found = [str(path) for path in sorted(parent.iterdir()) if exists(path)]
  if not found:
    return ""
  missed = pathlib.Path(directory).name == ENCODED and exists(parent / RAW)
  cure = ": run `mocha data encode`" if missed else ""
  return f"; there are some in {', '.join(found)}{cure}"


def _about(directory: str | os.PathLike[str]) -> dict[str, Any]:
  return dict(_open(directory).info.metadata or {})


@contextlib.contextmanager
def _failing_as_files_do() -> Iterator[None]:
  """Raise OSError where ArrayRecord cannot write; its own is of no kind."""
  try:
    yield
  except RuntimeError as error:
    if "write() failed" not in str(error):
      raise
    raise OSError(str(error)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keep tfds and Beam from drawing bars and logging over ours."""
  loggers = [logging.getLogger(name) for name in ("absl", "apache_beam")]
  levels = [logger.level for logger in loggers]
  tfds.disable_progress_bar()
  for logger in loggers:
    logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)
    tfds.enable_progress_bar()
