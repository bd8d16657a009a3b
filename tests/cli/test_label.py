"""`gsr label`."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle import open_bundle
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group, membership_from_index
from gsr_core.labelling.answers import answers
from gsr_core.workspace import Workspace


@pytest.fixture
def gsr(tmp_path, call):
    """The command line on a workspace with a bundle of four groups, all known."""
    workspace = Workspace.at(tmp_path / "workspace")
    index = np.tile([0, 1, 2, 3], 40)
    write_bundle(
        workspace.bundles / "tiny",
        samples=pd.DataFrame(
            {
                "sample_id": [f"s{row}" for row in range(160)],
                "split": np.repeat(["heldout", "target", "val", "test"], 40),
                "y": index // 2,
            }
        ),
        membership=membership_from_index(index, 4),
        groups=[
            Group(name=f"g{g}", definition=f"class = {g // 2} and a = {g % 2}") for g in range(4)
        ],
        classes=["0", "1"],
        features=np.random.default_rng(0).normal(size=(160, 4)) + index[:, None],
        source="made for a test",
    )
    return partial(call, workspace), workspace


def test_labels_go_from_the_queue_to_a_file_to_a_bundle(gsr, tmp_path):
    run, workspace = gsr
    made = run("label", "tiny", "--hide", "few", "--keep", "2", "--json")
    assert json.loads(made.out)["splits"]["target"] == 8
    assert run("run", "few", "--method", "llr", "--device", "cpu").code == 0
    told = json.loads(run("label", "few", "--count", "6", "--json").out)
    assert len(told["queue"]) == 6
    assert [each["group"] for each in told["groups"]] == ["g0", "g1", "g2", "g3"]
    said = run("label", "few", "--count", "6").out
    assert all(each["sample_id"] in said for each in told["queue"])

    file = tmp_path / "queue.csv"
    assert (
        "0 answers, 6 samples to answer"
        in run("label", "few", "--count", "6", "--export", file).out
    )
    table = pd.read_csv(file, keep_default_na=False)
    assert table["sample_id"].tolist() == [each["sample_id"] for each in told["queue"]]
    table["answer"] = [f"g{int(name[1:]) % 4}" for name in table["sample_id"]]
    table.to_csv(file, index=False)
    said = run("label", "few", "--import", file, "--by", "Ada", "--to", "more", "--json")
    assert json.loads(said.out)["imported"] == 6
    more = open_bundle(workspace, "more")
    assert more.manifest.split_sizes == {"heldout": 34, "target": 14, "val": 40, "test": 40}
    given = answers(workspace, open_bundle(workspace, "few"))
    assert set(given["by"]) == {"Ada"}
    assert given["sample_id"].isin(more.samples.query("split == 'target'")["sample_id"]).all()


def test_a_wrong_request_is_one_line_and_status_2(gsr, tmp_path):
    run, _ = gsr
    for arguments, sentence in {
        ("--test",): "--test says where --to NAME moves",
        ("--keep", 2): "--keep says what --hide NAME leaves",
        ("--to", "more"): "no row of heldout of bundle 'tiny' has an answer yet",
        ("--import", tmp_path / "none.csv"): "there is no file",
        ("--hide", "tiny"): "bundle 'tiny' exists already",
        ("--order", "best"): "order is 'best'; allowed are influence, balanced, random",
        ("--count", 0): "count is 0; ask for 1 sample or more",
    }.items():
        outcome = run("label", "tiny", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert sentence in outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_a_run_is_asked_for_only_where_something_is_to_be_ranked(gsr):
    run, _ = gsr
    done = run("label", "tiny")
    assert (done.code, done.err) == (0, "")
    assert "in a known group" in done.out
    assert "--hide NAME" in done.out
    assert json.loads(run("label", "tiny", "--json").out)["queue"] == []
    run("label", "tiny", "--hide", "few", "--keep", 2)
    outcome = run("label", "few")
    assert (outcome.code, outcome.out) == (2, "")
    assert "no run on bundle 'few' has the influence of samples on groups" in outcome.err
    assert "'gsr run few'" in outcome.err
