"""Where the classifier fails."""

import re

import pytest
from playwright.sync_api import expect

from gsr_core.runs.summary import summarise


@pytest.fixture
def audit(screen):
    screen.open("Audit", bundle="coloured-digits")
    return screen


def test_worst_group_and_both_averages_are_those_of_split_and_classifier(audit, dashboard, ids):
    runs = {run.run_id: run for run in dashboard.runs()}
    run = runs[ids["erm"]]
    test = summarise(run)["test"]
    worst = min(test["groups"], key=lambda group: group["accuracy"])
    assert audit.metric(f"Worst group: {worst['group']}") == f"{worst['accuracy']:.1%}"
    assert audit.metric("Mean accuracy") == f"{test['mean_accuracy']:.1%}"
    assert audit.metric("Adjusted average") == f"{test['adjusted_accuracy']:.1%}"
    expect(audit.chart("accuracy")).to_contain_text("worst group")
    audit.chart("confusion")

    # Another split and another classifier change the numbers.
    audit.choose("Split", "val")
    audit.wait_query(split="val")
    val = summarise(run)["val"]
    assert audit.metric("Mean accuracy") == f"{val['mean_accuracy']:.1%}"
    audit.pick(audit.box("Classifier"), re.compile("^LLR"))
    val = summarise(runs[ids["llr"]])["val"]
    assert audit.metric("Mean accuracy") == f"{val['mean_accuracy']:.1%}"


def test_counts_of_mistakes_lead_to_exactly_these_samples(audit):
    label = re.compile(r"5-9, red: \d+ wrong")
    link = audit.page.get_by_role("link", name=label)
    count = int(re.findall(r"([\d,]+) wrong", link.inner_text())[0])
    assert count > 0
    audit.click(link)
    audit.arrive("Samples")
    expect(audit.keyed("gallery bar")).to_contain_text(f"of {count} samples")
    expect(audit.box("Group")).to_have_value("5-9, red")
    expect(audit.box("Prediction")).to_have_value("wrong")
    expect(audit.box("Split")).to_have_value("test")
    assert audit.page.get_by_text("taken for").count() == min(count, 24)
