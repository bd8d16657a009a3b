import shlex

import pytest

from gsr_core.views.method_form import Request, command


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([3], ["--seed 3"]),
        ([0, 1, 2], ["--seed 0 --seeds 3"]),
        ([1, 2, 4], ["--seed 1 --seeds 2", "--seed 4"]),
    ],
)
def test_the_command_starts_the_runs_that_were_asked_for(monkeypatch, tmp_path, seeds, words):
    monkeypatch.setenv("GSR_WORKSPACE", str(tmp_path / "a place"))
    lines = command("tiny", Request("gsr", {"standardise": False}, seeds, "cpu")).splitlines()
    for line, each in zip(lines, words, strict=True):
        assert shlex.split(line) == [
            *(["gsr", "run", "tiny", "--method", "gsr", "--set", "standardise=false"]),
            *each.split(),
            *("--device", "cpu", "--workspace", str(tmp_path / "a place")),
        ]
