"""Studies: their grid, what they do not compute twice, and what comes out."""

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle import open_bundle
from gsr_core.errors import BundleError, RunNotFoundError, RunStateError, SettingError
from gsr_core.experiments.study import list_studies, make_study, open_study
from gsr_core.experiments.study_outcomes import (
    flipped_weights,
    outcomes,
    summarise_flipped,
    summarise_outcomes,
)
from gsr_core.experiments.study_runs import run_study
from gsr_core.progress import Status
from gsr_core.runs.protocol import protocol_of
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import create_run, list_runs

FEW = {"gsr": {"steps": 2}}


@pytest.fixture
def study(workspace):
    """A study of noise with one method, two levels and two seeds, not computed yet."""
    return make_study(
        workspace, "noise", "tiny", ["llr"], levels=[0.25, 0.0], seeds=2, device="cpu"
    )


def test_a_study_is_a_grid_of_runs_that_lists_can_leave_out(workspace, study):
    told = []
    assert run_study(study, progress=lambda share, text: told.append((share, text))) == []
    record = study.record
    assert (record.levels, record.part_of) == ([0.0, 0.25], "study:noise-tiny")
    runs = list_runs(workspace)
    assert {run.run_id for run in runs} == set(record.runs)
    assert {run.config.part_of for run in runs} == {"study:noise-tiny"}
    grid = {(run.config.variation.get("label_noise", 0), run.config.seed) for run in runs}
    assert grid == {(0, 0), (0, 1), (0.25, 0), (0.25, 1)}
    assert [share for share, _ in told] == [0, 0.25, 0.5, 0.75]
    assert told[1][1] == "Run 2 of 4: LLR, 25% of labels flipped, seed 0"
    assert [each.name for each in list_studies(workspace)] == ["noise-tiny"]


def test_a_study_goes_on_without_computing_anything_twice(workspace, study):
    seen = []

    def stop() -> bool:
        seen.append(len(study.record.runs))
        return len(study.record.runs) == 2

    with pytest.raises(RunStateError, match="stopped after 2 of 4 runs, which are kept"):
        run_study(study, should_stop=stop)
    first = study.record.runs
    assert len(first) == 2
    assert run_study(study) == []
    assert study.record.runs[:2] == first
    assert len(list_runs(workspace)) == 4
    # More of it later: what is there counts.
    more = make_study(
        workspace, "noise", "tiny", ["llr", "erm"], levels=[0.0, 0.25], seeds=2, device="cpu"
    )
    run_study(more)
    assert outcomes(more)["method"].value_counts().to_dict() == {"llr": 4, "erm": 4}
    assert len(list_runs(workspace)) == 8
    # A record that lost its list finds its runs again.
    more.write(more.record.model_copy(update={"runs": []}))
    run_study(more)
    assert len(list_runs(workspace)) == 8
    assert len(outcomes(more)) == 8


def test_zero_noise_is_bitwise_the_plain_run_and_noise_is_not(workspace, study, same_outcome, done):
    study = make_study(
        workspace,
        "noise",
        "tiny",
        ["gsr"],
        levels=[0.0, 0.2],
        settings={"gsr": {"steps": "2"}},
        seeds=1,
        name="few",
        device="cpu",
    )
    run_study(study)
    (_, clean), (_, noisy) = study.finished()
    plain = done(steps=2)
    same_outcome(clean, plain)
    assert "flipped" not in clean.weights()
    bundle, weights = open_bundle(workspace, "tiny"), noisy.weights()
    wrong = weights["y"].to_numpy() != bundle.y[weights["row"]]
    np.testing.assert_array_equal(weights["flipped"], wrong)
    assert wrong.sum() == round(0.2 * len(weights)) == 8
    assert np.abs(noisy.head()[0] - plain.head()[0]).max() > 0
    table = sample_table(noisy, "heldout")
    np.testing.assert_array_equal(table["label flipped"], wrong)
    np.testing.assert_array_equal(table["y"], bundle.y[weights["row"]])
    assert "label flipped" not in sample_table(noisy, "target")


def test_a_budget_and_a_leak_are_what_the_run_says_it_saw(workspace):
    budget = make_study(
        workspace, "budget", "tiny", ["dfr"], levels=[0.2, 1], seeds=1, device="cpu",
        settings={"dfr": {"heads": 2, "steps": 2}},
    )  # fmt: skip
    run_study(budget)
    assert outcomes(budget)["target"].tolist() == [8, 40]
    (_, few), _ = budget.finished()
    assert sorted(few.weights()["row"]) == few.rows_of("target").tolist()
    assert len(sample_table(few, "target")) == 8
    leak = make_study(workspace, "leak", "tiny", ["gsr"], settings=FEW, seeds=1, device="cpu")
    run_study(leak)
    (_, own), (_, shared) = leak.finished()
    assert protocol_of(own).budget == 80
    assert protocol_of(shared).budget == 40
    np.testing.assert_array_equal(shared.rows_of("val"), shared.rows_of("target"))
    values = shared.metrics().query("group == '' and metric == 'worst_group_accuracy'")
    wide = values.pivot(index="step", columns="split", values="value")
    np.testing.assert_array_equal(wide["val"], wide["target"])


def test_what_failed_is_told_and_the_rest_is_computed(workspace, study, monkeypatch):
    from gsr_core.methods.llr import LLR

    plain = LLR.iterate

    def fragile(self, problem, checkpoint=None):
        if self.seed == 1:
            raise SettingError("seed 1 is not to be had")
        yield from plain(self, problem, checkpoint)

    monkeypatch.setattr(LLR, "iterate", fragile)
    failed = run_study(study)
    assert [run.state.message for run in failed] == ["seed 1 is not to be had"] * 2
    assert {run.state.status for run in failed} == {Status.FAILED}
    assert outcomes(study)["seed"].tolist() == [0, 0]
    monkeypatch.undo()
    assert run_study(study) == []
    assert len(outcomes(study)) == 4


def test_what_makes_no_study_is_refused_and_leaves_nothing_behind(workspace, study):
    for kind, methods, more, said in (
        ("colour", ["llr"], {}, "no study 'colour'; studies are noise, group_noise, budget"),
        ("noise", [], {}, "at least one method"),
        ("noise", ["nonsense"], {}, "there is no method"),
        ("noise", ["llr"], {"levels": [1.0]}, "level 1 is not allowed"),
        ("noise", ["llr"], {"levels": []}, "there are no levels"),
        ("noise", ["llr"], {"levels": [0.1, 0.1]}, "twice"),
        ("budget", ["llr"], {"levels": [0.0]}, "shares above 0"),
        ("noise", ["llr"], {"seeds": 0}, "seeds is 0"),
        ("noise", ["llr"], {"name": "../up"}, "is not allowed"),
        ("noise", ["llr"], {"settings": {"gsr": {"steps": 2}}}, "gsr, which is not in the study"),
        ("noise", ["llr"], {"settings": {"llr": {"colour": 2}}}, "no setting 'colour'"),
        ("strength", ["llr"], {}, "a bundle for each level"),
    ):
        with pytest.raises(SettingError, match=said):
            make_study(workspace, kind, "tiny", methods, **{"name": "refused", **more})
    assert not (workspace.studies / "refused").exists()
    with pytest.raises(SettingError, match="begun with kind 'noise', not 'leak'"):
        make_study(workspace, "leak", "tiny", ["llr"], name=study.name)
    with pytest.raises(RunNotFoundError, match="'gsr study' begins one"):
        open_study(workspace, "none")
    with pytest.raises(SettingError, match="label_noise is 2"):
        create_run(workspace, "tiny", "llr", variation={"label_noise": 2})


def test_a_study_keeps_to_the_data_it_began_on(workspace, study, write):
    run_study(study)
    write(workspace, seed=5, overwrite=True)
    with pytest.raises(BundleError, match="has changed since study 'noise-tiny' began"):
        run_study(study)
    assert outcomes(study).empty


def test_two_processes_do_not_compute_one_study(study):
    with study.lock(), pytest.raises(RunStateError, match="under way in another process"):
        run_study(study)


def test_summaries_are_means_and_deviations_over_seeds():
    worst = {("gsr", 0.1): [0.6, 0.8], ("gsr", 0.0): [0.9, 0.9], ("erm", 0.0): [0.5]}
    table = pd.DataFrame(
        [
            (method, level, seed, f"{method}{seed}", 40, value + 0.05, 0.9, value, 0.95)
            for (method, level), values in worst.items()
            for seed, value in enumerate(values)
        ],
        columns=[
            *("method", "level", "seed", "run", "target"),
            *("val_worst_group_accuracy", "val_mean_accuracy"),
            *("test_worst_group_accuracy", "test_mean_accuracy"),
        ],
    )
    found = summarise_outcomes(table)
    assert found[["method", "level", "seeds"]].to_numpy().tolist() == [
        ["gsr", 0.0, 2],
        ["gsr", 0.1, 2],
        ["erm", 0.0, 1],
    ]
    np.testing.assert_allclose(found["test"], [0.9, 0.7, 0.5])
    np.testing.assert_allclose(found["test_sd"], [0, np.sqrt(0.02), np.nan])
    np.testing.assert_allclose(found["gap"], 0.05)
    empty = summarise_outcomes(table.iloc[:0])
    assert empty.empty
    assert list(empty.columns) == list(found.columns)


def test_gsr_gives_flipped_minority_rows_less_weight_than_clean_ones(tmp_path, write):
    from gsr_core.workspace import Workspace

    place = Workspace.at(tmp_path / "more")
    write(place)
    study = make_study(
        place,
        "noise",
        "tiny",
        ["gsr"],
        levels=[0.2],
        settings={"gsr": {"steps": 30, "lr": 0.5}},
        seeds=4,
        device="cpu",
    )
    run_study(study)
    table = flipped_weights(study)
    assert table[table["group"] == "all"].groupby("seed")["samples"].sum().tolist() == [40] * 4
    for seed, part in table[table["group"] == "all"].groupby("seed"):
        total = (part["samples"] * part["weight"]).sum() / 40
        assert total == pytest.approx(1), seed
    found = summarise_flipped(table).set_index(["group", "flipped"])["weight"]
    minority = ["cat, green", "dog, red"]
    clean = np.mean([found[name, False] for name in minority])
    flipped = np.mean([found[name, True] for name in minority])
    assert flipped < 0.7 * clean
