"""What to beware of in a run's numbers, and how good its probabilities are by group."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gsr_core.quality import group_quality
from gsr_core.runs.cautions import cautions
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.quality import quality_table
from gsr_core.runs.store import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_bundle):
    from gsr_core.workspace import Workspace

    place = Workspace(digits_bundle.path.parent.parent)
    return compute_run(place, digits_bundle.name, "gsr", device="cpu", steps=8)


def changed(run, monkeypatch, **said):
    """The run as if it had another head or history."""
    for name, value in said.items():
        monkeypatch.setattr(Run, name, lambda self, value=value: value)
    return run


def test_a_head_that_predicts_one_class_is_said_to(run, monkeypatch):
    weight, bias = run.head()
    assert not any("one class" in each for each in cautions(run))
    flat = (np.zeros_like(weight), np.where(np.arange(len(bias)) == 1, 1.0, 0.0))
    (said,) = [
        each for each in cautions(changed(run, monkeypatch, head=flat)) if "one class" in each
    ]
    assert f"'{run.bundle.manifest.classes[1]}'" in said


def test_a_small_worst_group_is_said_with_its_interval(run, monkeypatch):
    history = run.metrics()
    of_test = (history["split"] == "test") & (history["metric"] == "count")
    smaller = history.assign(value=history["value"].mask(of_test, 7.0))
    assert not any("7 samples" in each for each in cautions(run))
    said = cautions(changed(run, monkeypatch, metrics=smaller))
    assert any("has 7 samples: its accuracy is known to lie between" in each for each in said)


@pytest.mark.parametrize(("spread", "told"), [(0.0, False), (0.02, True), (0.5, False)])
def test_steps_that_val_cannot_tell_apart_are_said_to_be(run, monkeypatch, spread, told):
    history = run.metrics()
    of_val = (
        (history["split"] == "val")
        & (history["metric"] == "worst_group_accuracy")
        & (history["group"] == "")
    )
    kept = history.loc[of_val & (history["step"] == run.state.best_step), "value"].item()
    value = history["value"].mask(of_val, kept - spread * (history["step"] == 2))
    said = cautions(changed(run, monkeypatch, metrics=history.assign(value=value)))
    assert any("Which of the 8 steps was kept may be chance" in each for each in said) == told


def test_nothing_is_said_of_steps_that_another_rule_chose(run, monkeypatch):
    from gsr_core.runs.record import RunConfig

    history = run.metrics()
    of_val = (history["split"] == "val") & (history["metric"] == "worst_group_accuracy")
    value = history["value"].mask(of_val, 0.9 - 0.01 * (history["step"] == 2))
    changed(run, monkeypatch, metrics=history.assign(value=value))
    assert any("may be chance" in each for each in cautions(run))
    for rule in ("average", "worst_group_loss"):
        method = replace(run.config.make_method(), selection=rule)
        monkeypatch.setattr(RunConfig, "make_method", lambda self, method=method: method)
        assert not any("may be chance" in each for each in cautions(run))


def test_the_table_is_of_the_kept_head_and_has_groups_and_attributes(run):
    bundle, split = run.bundle, "test"
    table = quality_table(run, split)
    weight, bias = run.head()
    rows = run.rows_of(split, bundle)
    logits = np.asarray(bundle.features[rows]) @ weight.T + bias
    expected = group_quality(logits, bundle.y[rows], bundle.membership[rows], bundle.group_names)
    groups = table[table["kind"] == "group"].drop(columns="kind")
    pd.testing.assert_frame_equal(groups.reset_index(drop=True), expected)
    attributes = table[table["kind"] == "attribute"]
    sizes = attributes["n"].groupby(attributes["group"].str.split("=").str[0]).sum()
    # The third attribute has as many values as samples.
    assert dict(sizes) == {"colour": len(rows), "digit": len(rows)}


def test_a_run_without_a_head_has_no_cautions(run, tmp_path):
    assert cautions(replace(run, path=tmp_path)) == []
