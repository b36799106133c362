"""Which parameters are trained; the others stay as they were imported."""

import dataclasses
from collections.abc import Callable
from typing import Literal

SPEECH = ("speech", "blocks.speech_norm", "blocks.speech_attention")
_SELF_ATTENTION = ("blocks.self_norm", "blocks.self_attention")
_LORA = "lora"


@dataclasses.dataclass(frozen=True)
class TrainableConfig:
  """Section `trainable`.

  preset: "full", all; "speech", what speech goes through alone, or with it
    "speech+self_attention"; "speech+lora", it and the adapters of section
    `model.lora`; or "lora", these alone. No other preset may have adapters.
  """

  preset: Literal[
    "full", "speech", "speech+self_attention", "speech+lora", "lora"
  ]

  def selection(self, *, has_adapters: bool) -> Callable[[str], bool] | None:
    """Return what says of a dotted path whether it is trained; None: all are.

    Raises:
      ValueError: there are adapters that are not trained, or none to train.
    """
    if has_adapters != (_LORA in self.preset.split("+")):
      rank = "above 0" if has_adapters else "= 0"
      raise ValueError(
        f'config.trainable.preset = "{self.preset}" with config.model.lora.rank'
        f' {rank}: "speech+lora" and "lora" go with a rank above 0'
      )
    if self.preset == "full":
      return None
    return self._is_trained

  def _is_trained(self, path: str) -> bool:
    modules = () if self.preset == _LORA else SPEECH
    if self.preset == "speech+self_attention":
      modules += _SELF_ATTENTION
    return _LORA in path.split(".") or any(
      path.startswith(f"{module}.") for module in modules
    )
