import io

import pytest
import rich
import rich.console

from data_pipelines import progress


@pytest.mark.parametrize("terminal", [True, False])
def test_title_is_shown_in_a_terminal_and_nothing_elsewhere(
  monkeypatch, terminal
):
  screen = io.StringIO()
  console = rich.console.Console(file=screen, force_terminal=terminal, width=80)
  monkeypatch.setattr(rich, "get_console", lambda: console)
  assert list(progress.track(iter("abc"), "spell", total=3)) == list("abc")
  said = screen.getvalue()
  assert ("spell" in said) == terminal
  assert bool(said) == terminal
