"""Searching settings: from the form to the winner, stopped and gone on with."""

import re
import shlex
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from gsr_core.experiments.sweep import Sweep, list_sweeps


@pytest.fixture
def newest(dashboard, waiting) -> Callable[[], Sweep]:
    """Wait for a sweep and return it."""
    return lambda: waiting(lambda: list_sweeps(dashboard.workspace), "a sweep")[0]


def choose_llr(screen) -> None:
    screen.open("Sweep", bundle="coloured-digits")
    screen.pick(screen.box("Method"), re.compile("^LLR"))


def test_a_sweep_from_the_form_to_the_comparison(screen, newest):
    page = screen.page
    choose_llr(screen)
    expect(page.get_by_text("No sweep on this bundle yet.")).to_be_visible()
    assert [row["searched"] for row in screen.table("searched")] == ["l2"]
    screen.enter("Trials", 4)
    screen.enter("Seeds of the winner", 2)
    expect(page.get_by_text("4 trials, scored on val, + 2 runs of the winner")).to_be_visible()
    words = shlex.split(page.get_by_test_id("stCode").inner_text())
    assert words[:5] == ["gsr", "sweep", "coloured-digits", "--method", "llr"]
    assert words[words.index("--trials") + 1] == "4"
    screen.press("Start")
    expect(page.get_by_role("heading", name=re.compile("^Winner: l2"))).to_be_visible()
    screen.idle()
    screen.sound()
    record = newest().record
    assert record.finished
    assert screen.query["sweep"] == record.name
    assert screen.metric("Worst-group accuracy on val") == f"{record.winner.score:.1%}"
    assert screen.metric("Trial") == f"{record.winner.place + 1} of 4"
    assert [row["run"] for row in screen.table("worst group, test")] == record.runs
    expect(screen.chart("sweep best")).to_contain_text("worst-group accuracy on val")
    expect(screen.chart("sweep settings")).to_contain_text("l2")
    screen.click(page.get_by_text("All 4 trials"))
    scores = [float(row[record.score_name]) for row in screen.table("kept step")]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    screen.click(page.get_by_test_id("stMain").get_by_role("link", name="Compare").last)
    screen.arrive("Compare")
    assert record.runs[0] in screen.query["runs"]


def test_a_sweep_is_stopped_and_goes_on(screen, newest, waiting):
    page = screen.page
    choose_llr(screen)
    screen.enter("Trials", 3000)
    screen.press("Start")
    sweep = newest()
    expect(page.get_by_text(re.compile(r"Trial \d+ of 3000"))).to_be_visible()
    screen.chart("sweep live")
    screen.press("Stop")
    expect(page.get_by_text(re.compile("Stopped after .* of 3,000 trials"))).to_be_visible()
    screen.idle()
    done = len(sweep.trials())
    assert 0 < done < 3000
    screen.chart("sweep best")
    # Another window sees it as it stands, and can go on.
    screen.open("Sweep", bundle="coloured-digits", sweep=sweep.name)
    screen.press("Go on")
    waiting(lambda: len(sweep.trials()) > done, "more trials")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
