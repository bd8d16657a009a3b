"""Where the classifier fails."""

import re

import pytest
from playwright.sync_api import expect

from gsr_core.runs.summary import summarise


@pytest.fixture
def audit(screen):
    screen.open("Audit", bundle="coloured-digits")
    return screen


def test_worst_group_and_both_averages_are_named(audit, dashboard, ids):
    run = next(run for run in dashboard.runs() if run.run_id == ids["erm"])
    test = summarise(run)["test"]
    worst = min(test["groups"], key=lambda group: group["accuracy"])
    assert audit.metric(f"Worst group: {worst['group']}") == f"{worst['accuracy']:.1%}"
    assert audit.metric("Mean accuracy") == f"{test['mean_accuracy']:.1%}"
    assert audit.metric("Adjusted average") == f"{test['adjusted_accuracy']:.1%}"
    expect(audit.chart("accuracy")).to_contain_text("worst group")
    audit.chart("confusion")


def test_counts_of_mistakes_lead_to_exactly_these_samples(audit):
    label = re.compile(r"5-9, red: \d+ wrong")
    link = audit.page.get_by_role("link", name=label)
    count = int(re.findall(r"([\d,]+) wrong", link.inner_text())[0])
    assert count > 0
    link.click()
    audit.arrive("Samples")
    expect(audit.keyed("gallery bar")).to_contain_text(f"of {count} samples")
    expect(audit.box("Group")).to_have_value("5-9, red")
    expect(audit.box("Prediction")).to_have_value("wrong")
    expect(audit.box("Split")).to_have_value("test")
    assert audit.page.get_by_text("taken for").count() == min(count, 24)


def test_another_split_and_another_classifier_change_the_numbers(audit, dashboard, ids):
    def shown() -> str:
        return audit.metric("Mean accuracy")

    runs = {run.run_id: run for run in dashboard.runs()}
    audit.choose("Split", "val")
    audit.wait_query(split="val")
    assert shown() == f"{summarise(runs[ids['erm']])['val']['mean_accuracy']:.1%}"
    audit.pick(audit.box("Classifier"), re.compile("^LLR"))
    assert shown() == f"{summarise(runs[ids['llr']])['val']['mean_accuracy']:.1%}"
