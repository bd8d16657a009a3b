"""What the suite does about threads and about tests that fail by chance."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

BY_CHANCE = """
from pathlib import Path

def test_that_fails_at_first():
    first = not Path("seen").exists()
    Path("seen").touch()
    assert not first

def test_that_fails_always():
    assert not {broken}

def test_that_passes():
    pass
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run three tests, one of which fails by chance, under this suite's own conftest."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\ntestpaths = tests\naddopts = --dist=loadfile")
    folder = pytester.mkdir("tests")
    (folder / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())

    def run(*words: str, broken: bool = False) -> pytest.RunResult:
        (folder / "test_chance.py").write_text(BY_CHANCE.format(broken=broken))
        return pytester.runpytest_subprocess(*words)

    return run


def test_what_passes_on_a_second_run_passes_and_is_named_and_counted(suite):
    result = suite("--numprocesses=2")
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "*! FLAKY !*",
            "FLAKY (passed on a second run): tests/test_chance.py::test_that_fails_at_first",
            "FLAKY: 1 in all",
        ]
    )


def test_what_fails_twice_fails_and_is_not_called_flaky(suite):
    result = suite("--numprocesses=0", broken=True)
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["FLAKY: 1 in all"])
    result.stdout.no_fnmatch_line("FLAKY*test_that_fails_always")


def test_a_part_of_the_suite_fails_at_once(suite):
    result = suite("--numprocesses=0", "tests/test_chance.py")
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("*FLAKY*")


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_threads_wait_passively_unless_the_user_says_otherwise(chosen):
    """Torch reads it when it is imported: whoever imports any part of the package has it then."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if chosen:
        environment["OMP_WAIT_POLICY"] = chosen
    script = (
        "import sys, gsr_core.workspace, os\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (chosen or "PASSIVE")
