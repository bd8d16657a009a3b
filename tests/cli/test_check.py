"""`gsr check` and `gsr radar`: exit statuses, options over a file, and what is written."""

import json
from xml.etree import ElementTree

import pytest

from gsr_core.comparing.radar import radar
from gsr_core.curation.slices import name_slice
from gsr_core.runs.execute import execute
from gsr_core.runs.store import create_run, open_run
from gsr_core.workspace import Workspace
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    workspace = Workspace.at(tmp_path_factory.mktemp("check"))
    bundle = write_tiny(workspace)
    runs = [create_run(workspace, "tiny", name, device="cpu") for name in ("erm", "class_balanced")]
    for run in runs:
        execute(run)
    name_slice(workspace, bundle, "a=b", bundle.rows_of["test"])
    return workspace, *(run.run_id for run in runs)


@pytest.fixture
def gsr(filled, call):
    return lambda *arguments: call(filled[0], *arguments)


def test_the_exit_status_says_whether_all_passed(filled, gsr, tmp_path):
    _, base, run = filled
    file, junit = tmp_path / "checks.toml", tmp_path / "result.xml"
    file.write_text(f'floor = 0.05\nmin-rows = 10\nagainst = "{base}"\nmax-drop = 0.99\n')
    outcome = gsr("check", run, "--file", file, "--slice", "a=b=0.1", "--junit", junit)
    assert outcome.code == 0
    assert outcome.out.endswith("passed\n")
    assert len(ElementTree.parse(junit).getroot().findall(".//testcase")) == 10
    # An option counts before the file.
    failed = gsr("check", run, "--file", file, "--slice", "a=b=0.999", "--json")
    assert failed.code == 1
    found = json.loads(failed.out)
    assert found["passed"] is False
    assert {line["result"] for line in found["checks"]} == {"pass", "too few rows"}
    assert gsr("check", run, "--file", file, "--slice", "a=b=0.999", "--allow-few").code == 0
    # Ten rows a group are fewer than the usual thirty.
    few = gsr("check", run, "--floor", 0.1)
    assert few.code == 1
    assert "10 test rows; 30 are needed" in few.err
    assert "--allow-few lets groups" in few.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing is checked"),
        (["--floor", "80"], "floor is 80.0"),
        (["--slice", "a=b"], "slice.a is 'b'"),
        (["--slice", "night"], "is not NAME=FLOOR"),
        (["--floor", "0.5", "--slice", "c=0.5"], "has no slice 'c'"),
        (["--max-drop", "0.1", "--against", "nobody"], "nobody"),
        (["--file", "missing.toml"], "missing.toml"),
    ],
)
def test_bad_input_is_one_line_and_status_2(filled, gsr, tmp_path, arguments, said):
    junit = tmp_path / "result.xml"
    outcome = gsr("check", filled[1], *arguments, "--junit", junit)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not junit.exists()


def test_the_radar_prints_the_harmed_and_has_all_as_json(filled, gsr):
    workspace, base, run = filled
    one, two = (open_run(workspace, name) for name in (base, run))
    outcome = gsr("radar", base, run, "--min-rows", 5, "--json")
    expected = radar(one, two, min_rows=5)
    found = json.loads(outcome.out)
    assert [each["name"] for each in found["subsets"]] == expected.table["name"].tolist()
    assert (found["fixed"], found["broken"]) == (expected.fixed, expected.broken)
    text = gsr("radar", base, run, "--min-rows", 5, "--top", 1).out
    harmed = expected.table[expected.table["net"] < 0]["name"].tolist()
    assert [name in text for name in harmed] == [True] + [False] * (len(harmed) - 1)
    refused = gsr("radar", base, base)
    assert refused.code == 2
    assert "two different runs" in refused.err
