"""`gsr run --seeds`, `gsr compare` and `gsr methods`."""

import json
from pathlib import Path

import numpy as np
import pytest

import gsr_core
from gsr_core.data.bundle import open_bundle
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.methods.base import LabelNeeds
from gsr_core.methods.describe import describe_methods, methods_table
from gsr_core.methods.gsr import GSR
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.progress import Status
from gsr_core.runs.execute import execute
from gsr_core.runs.store import create_run, list_runs, open_run
from gsr_core.workspace import Workspace
from tests.cli.conftest import Outcome

ROOT = Path(gsr_core.__file__).parents[1]
FEW = ("--set", "steps=3", "--device", "cpu")


def write(workspace: Workspace, name: str, folder: Path, shift: float = 0.0) -> None:
    rng = np.random.default_rng(0)
    group = np.tile([0, 1, 2, 3], 40)
    file = folder / f"{name}.npz"
    np.savez(
        file,
        features=rng.normal(size=(160, 4)) + group[:, None] + shift,
        y=group // 2,
        group=group,
        split=np.repeat(["heldout", "target", "val", "test"], 40),
    )
    plan = make_plan(name=name, reader="npz", settings={"path": str(file)})
    import_data(workspace, plan, overwrite=False)


def run(workspace: Workspace, method: str, bundle: str = "tiny", **settings):
    made = create_run(workspace, bundle, method, settings, device="cpu")
    execute(made)
    return made.run_id


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> tuple[Workspace, dict[str, list[str]]]:
    """A workspace with runs over seeds on one bundle, one on another, and one that waits."""
    folder = tmp_path_factory.mktemp("compare")
    workspace = Workspace.at(folder / "workspace")
    write(workspace, "tiny", folder)
    write(workspace, "other", folder, shift=1.0)
    ids = {
        "gsr": [run(workspace, "gsr", steps=3, seed=seed) for seed in range(3)],
        "dfr": [run(workspace, "dfr", steps=2, heads=3, seed=seed) for seed in range(3)],
        "llr": [run(workspace, "llr")],
        "elsewhere": [run(workspace, "llr", "other")],
        "waiting": [create_run(workspace, "tiny", "erm", device="cpu").run_id],
    }
    made = create_run(workspace, "tiny", "llr", {"seed": 3}, device="cpu", part_of="study:noise")
    execute(made)
    return workspace, {**ids, "study": [made.run_id]}


@pytest.fixture
def gsr(filled, call):
    return lambda *arguments: call(filled[0], *arguments)


@pytest.fixture
def ids(filled) -> dict[str, list[str]]:
    return filled[1]


@pytest.fixture
def fresh(tmp_path, call):
    """A workspace with a bundle and no run, and the command line on it."""
    workspace = Workspace.at(tmp_path / "workspace")
    write(workspace, "tiny", tmp_path)
    return workspace, lambda *arguments: call(workspace, *arguments)


def refused(outcome: Outcome, *said: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("gsr: ")
    assert outcome.err.count("\n") == 1
    for text in said:
        assert text in outcome.err


# Seeds ---------------------------------------------------------------------------------------


def test_seeds_make_one_run_each_and_report_their_spread(fresh):
    workspace, gsr = fresh
    outcome = gsr("run", "tiny", *FEW, "--seed", "4", "--seeds", "2", "--json")
    assert outcome.code == 0
    found = json.loads(outcome.out)
    assert [each["seed"] for each in found["runs"]] == [4, 5]
    assert sorted(run.run_id for run in list_runs(workspace)) == sorted(found["entry"]["runs"])
    worst = [each["test"]["worst_group_accuracy"] for each in found["runs"]]
    assert found["entry"]["worst_group_accuracy"]["by_seed"] == pytest.approx(worst)
    assert found["entry"]["worst_group_accuracy"]["mean"] == pytest.approx(np.mean(worst))
    bundle = open_bundle(workspace, "tiny")
    drawn = [run.rows_of("target", bundle).tolist() for run in list_runs(workspace)]
    assert drawn[0] != drawn[1]
    assert sorted(drawn[0] + drawn[1]) != sorted(2 * bundle.rows_of["target"].tolist())
    table = gsr("run", "tiny", "--method", "llr", "--seeds", "2", "--device", "cpu").out
    assert "all seeds" in table
    assert "±" in table


def test_one_seed_of_several_is_reported_like_several(fresh):
    _, gsr = fresh
    found = json.loads(gsr("run", "tiny", *FEW, "--seeds", "1", "--json").out)
    assert [each["seed"] for each in found["runs"]] == [0]
    assert found["entry"]["interval"] == "95 % Wilson"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "seed=3"], ["--seeds counts from --seed"]),
        (["--seed", str(2**31 - 2)], ["seed is 2147483649"]),
        (["--set", "stesp=3"], ["no setting 'stesp'"]),
    ],
)
def test_bad_seeds_are_refused_and_leave_no_run(fresh, arguments, said):
    workspace, gsr = fresh
    refused(gsr("run", "tiny", "--seeds", "4", *arguments), *said)
    assert not workspace.runs.exists()


def test_a_seed_that_fails_ends_the_series_and_no_run_is_left_waiting(fresh, monkeypatch):
    workspace, gsr = fresh
    real = GSR.iterate

    def iterate(self, problem, checkpoint=None):
        if self.seed == 1:
            raise ValueError("boom")
        yield from real(self, problem, checkpoint)

    monkeypatch.setattr(GSR, "iterate", iterate)
    outcome = gsr("run", "tiny", *FEW, "--seeds", "4", "--json")
    assert outcome.code == 1
    assert "failed: ValueError: boom" in outcome.err
    assert json.loads(outcome.out)["entry"]["seeds"] == [0]
    by_seed = {run.config.seed: run.state.status for run in list_runs(workspace)}
    assert by_seed == {
        0: Status.FINISHED,
        1: Status.FAILED,
        2: Status.CANCELLED,
        3: Status.CANCELLED,
    }


# Compare -------------------------------------------------------------------------------------


def test_seeds_of_one_setting_are_put_together(gsr, ids):
    outcome = gsr("compare", *ids["gsr"], *ids["dfr"], *ids["llr"], "--json")
    assert outcome.code == 0
    result = json.loads(outcome.out)
    assert [(each["method"], each["seeds"]) for each in result["entries"]] == [
        ("gsr", [0, 1, 2]),
        ("dfr", [0, 1, 2]),
        ("llr", [0]),
    ]
    assert [each["label_budget"]["rows"] for each in result["entries"]] == [80, 80, 0]
    worst = [row for row in result["paired"] if row["metric"] == "worst_group_accuracy"]
    assert [(row["entry"][:3], row["seeds"]) for row in worst] == [("DFR", 3), ("LLR", 1)]
    assert worst[1]["verdict"] == "add seeds"


def test_beginnings_of_names_will_do_and_only_the_given_are_compared(gsr, ids):
    result = json.loads(
        gsr("compare", ids["llr"][0][:-1], ids["gsr"][1], "--all-seeds", "--json").out
    )
    # The study's run of LLR is no other seed of it.
    assert [each["seeds"] for each in result["entries"]] == [[0], [0, 1, 2]]
    result = json.loads(gsr("compare", ids["llr"][0], ids["gsr"][1], "--json").out)
    assert [each["seeds"] for each in result["entries"]] == [[0], [1]]
    result = json.loads(gsr("compare", ids["study"][0], ids["gsr"][1], "--json").out)
    assert [each["seeds"] for each in result["entries"]] == [[3], [1]]


def test_a_bundles_runs_are_compared_without_those_of_studies(gsr, ids):
    result = json.loads(gsr("compare", "--bundle", "tiny", "--json").out)
    compared = {run_id for entry in result["entries"] for run_id in entry["runs"]}
    assert compared == {*ids["gsr"], *ids["dfr"], *ids["llr"]}


def test_runs_of_studies_are_listed_when_asked_for(gsr, ids):
    listed, every = (
        json.loads(gsr("runs", *more, "--json").out)["runs"] for more in ([], ["--all"])
    )
    assert {row["run_id"] for row in every} - {row["run_id"] for row in listed} == {*ids["study"]}


def test_the_reference_can_be_chosen(gsr, ids):
    chosen = [*ids["gsr"], *ids["dfr"]]
    first = json.loads(gsr("compare", *chosen, "--json").out)
    assert first["reference"].startswith("GSR")
    other = json.loads(gsr("compare", *chosen, "--reference", ids["dfr"][2], "--json").out)
    assert other["reference"].startswith("DFR")
    there, back = first["paired"][0], other["paired"][0]
    assert there["difference"] == pytest.approx(-back["difference"])
    added = json.loads(gsr("compare", *ids["gsr"], "--reference", ids["llr"][0][:-1], "--json").out)
    assert added["reference"] == "LLR"


def test_the_table_says_who_is_better_and_what_it_cost(gsr, ids):
    outcome = gsr("compare", *ids["gsr"], *ids["dfr"], *ids["llr"])
    assert outcome.code == 0
    assert "tiny: accuracy on test at the kept step" in outcome.out
    assert "±" in outcome.out
    assert "[" in outcome.out.split("LLR")[1].splitlines()[0]
    assert "add seeds" in outcome.out
    assert "fixed and broken against" in outcome.out
    assert "note: labels: rows whose group labels were read" in outcome.err
    assert "gsr run ... --seeds 5" in outcome.err


def test_what_cannot_be_compared_is_refused(gsr, ids):
    refused(gsr("compare"), "name runs, or a bundle")
    refused(gsr("compare", "llr", "--bundle", "tiny"), "name runs, or a bundle")
    refused(gsr("compare", "none"), "no run 'none'")
    refused(gsr("compare", "gsr"), "begins the names of 3 runs")
    refused(gsr("compare", *ids["waiting"]), "has no result to compare: it is queued")
    refused(gsr("compare", "--bundle", "none"), "no bundle 'none'")
    refused(
        gsr("compare", *ids["gsr"], *ids["elsewhere"]),
        "not compared, because they ran on bundles 'tiny' and 'other', whose features",
    )


def test_a_bundle_without_a_result_says_how_to_begin(fresh):
    _, gsr = fresh
    refused(gsr("compare", "--bundle", "tiny"), "start one with 'gsr run tiny'")


# Methods -------------------------------------------------------------------------------------


def test_every_method_is_described_by_what_can_be_set(gsr):
    found = json.loads(gsr("methods", "--json").out)["methods"]
    assert [each["name"] for each in found] == list(METHODS)
    for each in found:
        method = METHODS[each["name"]]
        assert LabelNeeds[each["family"].upper()] == method.needs == each["needs"]
        assert each["values"] == method.values
        defaults = {one["name"]: one["default"] for one in each["parameters"]}
        assert defaults == make_method(each["name"]).settings()
        for one in each["parameters"]:
            assert one["help"].endswith("."), (each["name"], one["name"])
            ends = [one[key] for key in ("minimum", "above", "maximum", "below")]
            free = one["type"] in ("boolean", "string")
            assert free or one["allowed"] or any(end is not None for end in ends)
        searched = {one["name"] for one in each["parameters"] if one["search"] is not None}
        assert searched == set(method.search)


def test_the_table_of_methods_names_all_of_them(gsr):
    outcome = gsr("methods")
    assert outcome.code == 0
    for name in METHODS:
        assert any(line.split()[0] == name for line in outcome.out.splitlines())


def test_one_method_is_shown_with_its_settings(gsr):
    outcome = gsr("methods", "gsr")
    assert outcome.code == 0
    settings = make_method("gsr").settings()
    # What a setting is may go on over lines that begin with the name of another.
    lines = [line for line in outcome.out.splitlines() if line[:1].strip()]
    rows = {line.split()[0]: line for line in lines}
    for name, default in settings.items():
        assert str(default) in rows[name]
    for choice in ("worst_group,", "worst_group_earliest,", "worst_group_loss,"):
        assert choice in outcome.out.split("selection", 1)[1]
    assert [
        each["name"] for each in json.loads(gsr("methods", "gsr", "--json").out)["methods"]
    ] == ["gsr"]
    refused(gsr("methods", "gs"), "there is no method 'gs' (did you mean 'gsr'?)")


def test_a_run_that_ended_early_is_named_apart(fresh):
    workspace, gsr = fresh
    names = [run(workspace, "llr", seed=seed) for seed in range(3)]
    stopped = open_run(workspace, names[1])
    stopped.write_state(stopped.state.model_copy(update={"status": Status.CANCELLED}))
    outcome = gsr("compare", "--bundle", "tiny", "--json")
    entries = json.loads(outcome.out)["entries"]
    assert [(each["seeds"], each["stopped"]) for each in entries] == [([0, 2], False), ([1], True)]
    assert f"gsr continue {names[1]} goes on with it" in gsr("compare", "--bundle", "tiny").err


def test_the_documented_table_is_the_one_the_command_prints(gsr):
    printed = gsr("methods", "--markdown").out
    assert printed == methods_table()
    assert printed in (ROOT / "docs" / "methods.md").read_text(), (
        "put what 'gsr methods --markdown' prints into docs/methods.md"
    )


def test_sources_are_titles_with_a_year():
    by_name = {each["name"]: each["source"] for each in describe_methods()}
    assert by_name["gsr"] == (
        "Group-robust Sample Reweighting for Subpopulation Shifts via Influence Functions "
        "(ICLR 2025)"
    )
    assert by_name["erm"] == ""


def test_a_run_named_by_its_whole_name_is_the_one_compared(filled, gsr):
    workspace, ids = filled
    assert open_run(workspace, ids["gsr"][0]).config.seed == 0
    result = json.loads(gsr("compare", ids["gsr"][0], "--json").out)
    assert (result["paired"], result["changed"], result["values"]) == ([], [], [])
    assert result["entries"][0]["runs"] == ids["gsr"][:1]
