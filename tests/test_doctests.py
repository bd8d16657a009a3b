"""The examples in docstrings run and print what they say.

They find a workspace `place` in the current directory with the bundle `birds`, which is the tiny
bundle of `tests.tiny`, and the names `gsr` and `np`.
"""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

import gsr_core
from gsr_core.workspace import Workspace
from tests.tiny import write_tiny

ROOT = Path(gsr_core.__file__).parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "gsr_core").rglob("*.py"))
    if ">>>" in file.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Workspace.at(Path("gsr_workspace"))
    write_tiny(place, "birds")
    outcome = doctest.testmod(
        importlib.import_module(name),
        extraglobs={"place": place, "gsr": gsr_core, "np": np},
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert outcome.attempted
    assert not outcome.failed
