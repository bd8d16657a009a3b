import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from gsr_core.cli.main import main
from gsr_core.workspace import Workspace


class Outcome(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Call the command line in this process, on a workspace, in a window of 160 columns."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(workspace: Workspace, *arguments: object) -> Outcome:
        monkeypatch.setenv("GSR_WORKSPACE", str(workspace.root))
        monkeypatch.setattr(sys, "argv", ["gsr", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Outcome(stop.value.code or 0, out, err)

    return call
