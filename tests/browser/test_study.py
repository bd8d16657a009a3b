"""A study from one click to its figures."""

import re

import pytest
from playwright.sync_api import expect

from gsr_core.experiments.study import make_study, open_study
from gsr_core.experiments.study_outcomes import outcomes
from gsr_core.experiments.study_runs import run_study


@pytest.fixture
def noise(dashboard):
    """A study of noise that has begun."""
    return make_study(
        dashboard.workspace,
        "noise",
        "coloured-digits",
        ["gsr", "erm"],
        levels=[0, 0.2],
        settings={"gsr": {"steps": 2}},
        seeds=2,
        device="cpu",
        name="noise-before",
    )


def test_a_study_is_started_followed_and_drawn(screen, dashboard, waiting):
    screen.open("Study", bundle="coloured-digits")
    screen.click(screen.page.get_by_role("radio", name="One set for target and val"))
    screen.idle()
    tags = screen.page.locator("[data-tag] button[aria-label^='Remove']")
    for left in (2, 1):
        screen.click(tags.last)
        expect(tags).to_have_count(left)
        screen.idle()
    screen.enter("Seeds", 1)
    screen.enter("Name", "mine")
    expect(screen.page.get_by_text("2 runs")).to_be_visible()
    screen.press("Start study")
    waiting(lambda: (dashboard.workspace.studies / "mine" / "study.json").exists(), "the study")
    study = open_study(dashboard.workspace, "mine")
    waiting(lambda: len(study.finished()) == 2, "both runs")
    screen.chart("study accuracy")
    # The page may be one run behind for as long as it offers to stop.
    expect(screen.page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)
    rows = screen.table("val - test")
    assert [row["level"] for row in rows] == ["own sets", "one set"]
    table = outcomes(study)
    assert [float(row["worst group, test"]) for row in rows] == pytest.approx(
        table["test_worst_group_accuracy"].tolist()
    )
    screen.wait_query(study="mine")
    # Its runs are in no list.
    assert {run.config.part_of for run in dashboard.runs()} >= {"study:mine"}
    screen.follow("Run")
    known = {row["id"] for row in screen.table("kept step")}
    assert not known & set(study.record.runs)


def test_a_study_of_noise_shows_where_weights_go(screen, noise):
    run_study(noise)
    screen.open("Study", bundle="coloured-digits", study=noise.name)
    expect(screen.chart("study accuracy")).to_contain_text("labels flipped (% of weighted rows)")
    expect(screen.chart("study flipped")).to_contain_text("all rows, flipped")
    rows = screen.table("worst group, test")
    assert [(row["method"], int(row["seeds"])) for row in rows] == [
        *(("GSR", 2), ("GSR", 2), ("ERM", 2), ("ERM", 2))
    ]
    screen.click(screen.page.get_by_role("link", name="Compare these runs sample by sample"))
    screen.arrive("Compare")
    assert len(screen.table("worst-group accuracy")) == 4


def test_what_cannot_be_studied_is_said(screen, noise):
    screen.open("Study", bundle="coloured-digits")
    screen.enter("Name", "../up")
    screen.press("Start study")
    expect(screen.page.get_by_text("is not allowed")).to_be_visible()
    screen.enter("Name", noise.name)
    screen.click(screen.page.get_by_role("radio", name="Few group labels"))
    screen.idle()
    screen.enter("Name", noise.name)
    screen.press("Start study")
    expect(screen.page.get_by_text(re.compile("was begun with kind"))).to_be_visible()
