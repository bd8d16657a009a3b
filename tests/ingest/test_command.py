"""A plan as a command: typed into a shell, it is the same plan again."""

import shlex

import pandas as pd
import pytest
from typer.testing import CliRunner

from gsr_core.cli.main import app
from gsr_core.data.dataset import amend
from gsr_core.data.source import GroupRule, Roles, SplitRule
from gsr_core.errors import SettingError
from gsr_core.ingest import importing
from gsr_core.ingest.job import ImportJob
from gsr_core.ingest.plan import corrections, make_plan
from gsr_core.ingest.read import preview, read
from gsr_core.workspace import Workspace

PROPOSAL = Roles(
    label="y",
    sample_id="id",
    attributes=("place", "age"),
    groups=GroupRule(columns=("place",)),
    split=SplitRule(column="split"),
)
CHOSEN = {
    "as proposed": {},
    "another class": {"label": "bird's kind", "sample_id": None},
    "no attributes": {
        "attributes": (),
        "groups": GroupRule(columns=()),
    },
    "other attributes, the same groups": {"attributes": ("place", "light = low")},
    "bins and merges": {
        "groups": GroupRule(
            columns=("place", "age"),
            bins={"age": 4},
            merge=(("a, 1", "b, 1"), ("a, 1 or b, 1", "c")),
        )
    },
    "flags": {"groups": GroupRule(kind="overlapping", columns=("age", "place"), with_class=False)},
    "names": {"groups": GroupRule(kind="named", columns=("place",))},
    "drawn splits": {
        "split": SplitRule(train=0.5, validation=0.25, heldout=1.0, target=0.4, seed=7)
    },
    "words": {"split": SplitRule(column="fold", words={"-1": "heldout", "a=b": "test"}, heldout=0)},
}
PLANS = {
    "network of one's own": {
        "reader": "images",
        "settings": {"path": "a folder/with 'quotes'", "metadata": "table.csv"},
        "title": "Birds & more",
        "backbone": {
            "name": "own:package.module:factory",
            "checkpoint": "weights.pt",
            "layer": "head.1",
            "trust": True,
            "arguments": {"size": "small", "classes": "2"},
            "overrides": {"image_size": "64", "mean": "0.5,0.5,0.5"},
        },
        "extraction": {
            "device": "cpu",
            "batch_size": 8,
            "workers": 0,
            "precision": "float32",
            "on_bad": "skip",
            "engine": "ray",
            "address": "local:1",
            "actors": 3,
        },
    },
    "trained first": {
        "reader": "waterbirds",
        "settings": {"path": "-odd"},
        "backbone": {"name": "torchvision:resnet18", "weights": "DEFAULT"},
        "training": {"preset": "quick", "settings": {"lr": 1e-05, "optimiser": "sgd", "epochs": 2}},
    },
    "table": {
        "reader": "table",
        "settings": {
            "path": "t.csv",
            "numeric": ["age", "priors count"],
            "max_categories": 7,
            "attributes_as_features": True,
        },
    },
    "no file": {"reader": "synthetic", "settings": {"flipped": 0.05, "points": 12}},
}


def typed(job, workspace, monkeypatch):
    """Return the plan, and whether it may overwrite, that the real command makes of a job's."""
    made = {}

    class Stop(Exception):
        pass

    def catch(workspace, plan, *, overwrite, progress):
        made["plan"], made["overwrite"], made["workspace"] = plan, overwrite, workspace
        raise Stop

    monkeypatch.setattr(importing, "import_data", catch)
    words = shlex.split(job.command(workspace))
    assert words[0] == "gsr"
    result = CliRunner().invoke(app, words[1:])
    assert isinstance(result.exception, Stop), (result.output, result.exception)
    return made


@pytest.mark.parametrize("name", CHOSEN)
def test_corrections_make_the_choice_of_the_proposal_and_are_typed_as_they_are(
    name, monkeypatch, tmp_path
):
    chosen = PROPOSAL.model_copy(update=CHOSEN[name])
    changes = corrections(PROPOSAL, chosen)
    assert amend(PROPOSAL, changes) == chosen
    assert bool(changes) == bool(CHOSEN[name])
    plan = make_plan(name="birds", reader="images", settings={"path": "x"}, roles=changes)
    again = typed(ImportJob(plan=plan), Workspace(tmp_path), monkeypatch)["plan"]
    assert again == plan
    assert amend(PROPOSAL, again.roles) == chosen


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_typed_as_it_is(name, monkeypatch, tmp_path):
    plan = make_plan(name="birds", **PLANS[name])
    made = typed(ImportJob(plan=plan, overwrite=True), Workspace(tmp_path), monkeypatch)
    # The shell's word for a path that looks like an option is another path to the same file.
    expected = {**plan.settings}
    if str(expected.get("path", "")).startswith("-"):
        expected["path"] = f"./{expected['path']}"
    assert made["plan"] == plan.model_copy(update={"settings": expected})
    assert made["overwrite"]
    assert made["workspace"].root == tmp_path
    assert not typed(ImportJob(plan=plan), Workspace(tmp_path), monkeypatch)["overwrite"]


def test_a_plan_survives_the_queue():
    for values in PLANS.values():
        plan = make_plan(name="birds", **values)
        assert make_plan(**plan.model_dump(mode="json")) == plan


def test_roles_are_checked_before_anything_is_read():
    with pytest.raises(SettingError, match=r"split\.heldout is 3"):
        make_plan(name="b", reader="images", settings={}, roles={"split": {"heldout": 3}})


def test_a_source_that_was_read_is_not_read_again(tmp_path):
    file = tmp_path / "t.csv"
    rows = [(i % 2, ("a", "b")[i // 2 % 2], float(i)) for i in range(40)]
    pd.DataFrame(rows, columns=["y", "place", "x"]).to_csv(file, index=False)
    plan = make_plan(name="t", reader="table", settings={"path": str(file)})
    before = preview(plan)
    source, _ = read(plan)
    file.unlink()
    assert preview(plan, source) == before
    merged = make_plan(
        name="t",
        reader="table",
        settings={"path": str(file)},
        roles={"groups": {"merge": [["class 0, a", "class 0, b"]]}},
    )
    names = [group["name"] for group in before["groups"]]
    after = [group["name"] for group in preview(merged, source)["groups"]]
    assert len(after) == len(names) - 1
    assert "class 0, a or class 0, b" in after
