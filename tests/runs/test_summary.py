import json
import math
import time

import pytest

from gsr_core.runs.summary import AVERAGES, group_table, headline, overall, run_label, summarise

GROUPS = ["cat, red", "cat, green", "dog, red", "dog, green"]


def test_a_summary_has_every_key_and_survives_json(done):
    run = done(seed=2)
    summary = summarise(run)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["run_id"] == run.run_id
    assert summary["run_dir"] == str(run.path)
    assert (summary["method"], summary["bundle"], summary["seed"]) == ("gsr", "tiny", 2)
    assert (summary["device"], summary["steps"], summary["status"]) == ("cpu", 5, "finished")
    assert summary["seconds_per_step"] == summary["seconds"] / 5
    for split in ("val", "test"):
        assert set(summary[split]) == {*AVERAGES, "groups"}
        assert [group["group"] for group in summary[split]["groups"]] == GROUPS
        assert all(
            set(group) == {"group", "n", "accuracy", "loss"} for group in summary[split]["groups"]
        )


def test_the_summary_is_of_the_kept_step(done):
    run = done(steps=8)
    history, best = run.metrics(), run.state.best_step
    summary = summarise(run)
    for split in ("val", "test"):
        accuracies = [group["accuracy"] for group in summary[split]["groups"]]
        assert summary[split]["worst_group_accuracy"] == min(accuracies)
        assert (
            summary[split]["worst_group_accuracy"]
            == (overall(history, split, best)["worst_group_accuracy"])
        )
        assert sum(group["n"] for group in summary[split]["groups"]) == 40
    worst = history.query("split == 'val' and metric == 'worst_group_accuracy'")
    assert summary["val"]["worst_group_accuracy"] == worst["value"].max()


def test_a_run_without_a_step_has_no_outcome(make):
    run = make()
    summary = summarise(run)
    assert summary["val"] is None
    assert summary["test"] is None
    assert summary["seconds_per_step"] is None
    assert all(math.isnan(value) for value in headline(run).values())


def test_the_headline_is_the_test_outcome(done):
    run = done()
    assert headline(run) == {name: summarise(run)["test"][name] for name in AVERAGES}
    history = run.metrics()
    (run.path / "metrics.parquet").unlink()
    assert headline(run, "val", history=history) == {
        name: overall(history, "val", run.state.best_step)[name] for name in AVERAGES
    }


def test_the_group_table_keeps_the_order_of_the_bundle(done):
    run = done()
    table = group_table(run.metrics(), "test", 1)
    assert table["group"].tolist() == GROUPS
    assert table["count"].tolist() == [10, 10, 10, 10]


@pytest.fixture
def local_time(monkeypatch):
    """Put the time zone back where it was."""
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("changed", "text"), [({}, ""), ({"lr": 0.5}, " · lr 0.5")])
def test_a_label_names_what_differs_from_the_defaults_and_the_local_time(
    make, monkeypatch, local_time, changed, text
):
    run = make(**changed)
    run.write_config(run.config.model_copy(update={"created": "2025-11-22T03:16:59Z"}))
    made = {"UTC0": "22 Nov 03:16", "JST-9": "22 Nov 12:16", "CST6": "21 Nov 21:16"}
    for zone, time_there in made.items():
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert run_label(run) == f"GSR · steps 5{text} · {time_there}"
    run.rename(" the best ")
    assert run_label(run) == "the best · 21 Nov 21:16"
    run.rename("")
    assert run_label(run).startswith("GSR")
