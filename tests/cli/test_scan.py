"""`gsr scan`."""

import json
from functools import partial

import pytest

from gsr_core.data.bundle import open_bundle
from gsr_core.workspace import Workspace
from tests.tiny import write_tiny


@pytest.fixture
def gsr(tmp_path, call):
    workspace = Workspace.at(tmp_path / "workspace")
    write_tiny(workspace)
    return partial(call, workspace), workspace


def test_a_scan_finds_the_attribute_and_makes_its_groups(gsr):
    run, workspace = gsr
    made = json.loads(run("run", "tiny", "--method", "erm", "--device", "cpu", "--json").out)
    found = json.loads(run("scan", "tiny", "--run", made["run_id"], "--json").out)
    assert found["run"] == made["run_id"]
    (colour,) = found["attributes"]
    assert colour["attribute"] == "colour"
    assert colour["goes with"] in ("cat", "dog")
    assert len(found["gaps"]) == 2
    said = run("scan", "tiny", "--run", made["run_id"])
    assert "colour" in said.out
    assert "Cramér's V" in said.err
    said = run("scan", "tiny", "--by", "colour", "--groups", "new")
    assert said.out == (
        "bundle 'new' has the groups cat, green; cat, red; dog, green; dog, red; "
        "next: gsr run new\n"
    )
    assert "Cramér's V" not in said.err
    asked = ("scan", "tiny", "--by", "colour", "--groups", "new", "--overwrite", "--json")
    told = json.loads(run(*asked).out)
    assert told["made_bundle"] == "new"
    assert told["attributes"][0]["attribute"] == "colour"
    assert open_bundle(workspace, "new").manifest.attributes == ["colour"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--by", "colour"], "--by and --groups go together"),
        (["--side", "red"], "--side is of --by"),
        (
            ["--by", "colour", "--groups", "new", "--without", "digit"],
            "--without is of the table, which is not printed with --groups",
        ),
        (["--run", "nobody"], "no run"),
        (["--without", "shape"], "has no attribute, column, property or phrase 'shape'"),
        (
            ["--by", "shape", "--groups", "new"],
            "has no attribute, column, property or phrase 'shape'",
        ),
        (["--by", "colour", "--groups", "tiny"], "bundle 'tiny' exists already"),
    ],
)
def test_a_mistake_is_one_line(gsr, words, sentence):
    run, workspace = gsr
    outcome = run("scan", "tiny", *words)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1
    assert [each.name for each in workspace.bundles.iterdir()] == ["tiny"]
