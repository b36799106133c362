"""The figures of `mocha compile`, and how they are written as JSON."""

import dataclasses
import json

FORMULA = (
  "step = sum over instructions of max(FLOPs / (peak x efficiency), bytes / "
  "bandwidth), + collectives that no computation covers, + copies waited for; "
  "predicted MFU = model FLOPs / (step x chips x peak)"
)


@dataclasses.dataclass(frozen=True)
class Work:
  """Work of a part of the model in one phase of a step, on a chip.

  of_peak: what its FLOPs reach of the peak in its seconds.
  """

  part: str
  phase: str
  flops: float
  bytes: float
  seconds: float
  of_peak: float


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind over the same axes in a step, from a chip."""

  kind: str
  axes: str
  count: int
  bytes: float
  seconds: float
  exposed_seconds: float


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Where the time of a step goes.

  alone: what all of it takes by itself; added: what it adds to the step.
  """

  alone: float
  added: float


@dataclasses.dataclass(frozen=True)
class Report:
  """Bytes, FLOPs and seconds of one step; bytes per chip.

  tokens: of video in a clip. model_flops: of all chips, by part. hbm_bytes:
  what a program may use of a chip's main memory. ici_link_bandwidth: bytes per
  second of a link one way. efficiency: of the peak, for matrix products.
  memory: by kind. What a step that does not fit has not, is None or empty.
  """

  config: str
  topology: str
  chips: int
  mesh: dict[str, int]
  batch_size: int
  accumulate: int
  layers: int
  tokens: int
  remat: str
  parameters: int
  model_flops: dict[str, float]
  peak_flops: float
  hbm_bytes: float
  hbm_bandwidth: float
  ici_link_bandwidth: float
  dcn_bandwidth: float
  efficiency: float
  efficiency_source: str
  compile_seconds: float
  fits: bool
  why_not: str = ""
  peak_hbm_bytes: float | None = None
  memory: dict[str, float] = dataclasses.field(default_factory=dict)
  hardware_flops: float | None = None
  recomputed_share: float | None = None
  work: tuple[Work, ...] = ()
  collectives: tuple[Collective, ...] = ()
  time: dict[str, Seconds] = dataclasses.field(default_factory=dict)
  step_seconds: float | None = None
  compiler_estimate_seconds: float | None = None
  exposed_collective_share: float | None = None
  predicted_mfu: float | None = None
  bound: str | None = None
  formula: str = FORMULA

  def to_json(self) -> str:
    """Write the figures as JSON."""
    return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def from_json(text: str) -> Report:
  """Read what `to_json` wrote."""
  given = json.loads(text)
  given["work"] = tuple(Work(**row) for row in given["work"])
  given["collectives"] = tuple(
    Collective(**row) for row in given["collectives"]
  )
  given["time"] = {k: Seconds(**v) for k, v in given["time"].items()}
  return Report(**given)
