"""Where the classifier fails."""

import json
import re
import zipfile

import pytest
from playwright.sync_api import expect

from gsr_core.comparing.operating import operating_points
from gsr_core.comparing.thresholds import thresholds_of
from gsr_core.runs.quality import fairness_of
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


def test_each_closer_look_shows_what_the_library_finds(audit, dashboard, ids):
    (run,) = [run for run in dashboard.runs() if run.run_id == ids["erm"]]

    def look(name):
        audit.click(audit.page.get_by_role("radio", name=name))
        audit.wait_query(closer=name)
        audit.idle()

    look("In numbers")
    assert len(audit.table("AUROC")) >= 4

    look("Class scaling")
    found = operating_points(run, "test")
    assert audit.metric("Worst group on test") == f"{found.points['worst'][1]:.1%}"
    audit.chart("scaling")
    audit.chart("scaling-groups")
    file = audit.download(audit.page.get_by_role("button", name="Export the head"))
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read(f"{run.run_id}/about.json"))
    assert about["logit_offset"] == pytest.approx(found.by_class)
    # Of the average alone, it is another choice.
    trade = audit.page.get_by_role("slider", name="Weight of the worst group")
    trade.press("Home")
    audit.wait_query(trade="0")
    audit.idle()
    other = operating_points(run, "test", trade=0.0).points["average"][1]
    expect(audit.page.get_by_text(f"{other:.1%}").first).to_be_visible()

    look("Thresholds")
    audit.page.get_by_role("slider", name="Cost of a missed sample").press("End")
    audit.wait_query(cost="20")
    audit.idle()
    found = thresholds_of(run, "test", cost=20.0)
    shown = audit.metric(f"{found.positive} from a probability of")
    assert shown == f"{found.threshold:.3g}"
    audit.chart("thresholds")
    missed = found.groups.set_index("group")
    for row in audit.table("missed"):
        own, chosen = (missed.loc[row["group"], f"{point}_missed"] for point in ("own", "chosen"))
        assert row["missed"] == f"{own} → {chosen}"

    look("Calibration")
    assert audit.chart("reliability").locator(".subplot").count() == 4
    audit.choose("Groups and values of attributes", "colour=red")
    expect(audit.chart("reliability").locator(".subplot")).to_have_count(5)
    # The list stays open for more, and hides the rest of the page from readers.
    audit.page.keyboard.press("Escape")

    look("Fairness")
    found = fairness_of(run, "test", "colour").overall
    difference = 100 * found["odds_difference"]
    assert audit.metric("Equalised odds difference") == f"{difference:.1f} pp"
    expect(audit.chart("fairness")).to_contain_text("recall")
    # A second click takes the choice back.
    audit.click(audit.page.get_by_role("radio", name="Fairness"))
    audit.wait_query(closer=None)
