"""Where networks look, before a repair and after: in one sample, and on the object."""

import re

import pytest
from playwright.sync_api import expect

from gsr_core.runs.execute import run
from gsr_core.runs.summary import run_label
from tests.squares import import_squares


@pytest.fixture
def runs(dashboard, tmp_path):
    """Two runs on 48 images, each with a box around its bright square."""
    place = dashboard.workspace
    import_squares(place, tmp_path, {"train": 16, "validation": 16, "test": 16})
    return [run(place, "squares", name, device="cpu") for name in ("erm", "class_balanced")]


def test_a_sample_and_every_group_are_looked_at_before_and_after(screen, runs):
    page, (before, after) = screen.page, runs
    row = int(after.bundle.rows_of["test"][0])
    at = {"bundle": "squares", "run": after.run_id}
    screen.open("Samples", **at, split="test", sample=row)
    dialog = page.get_by_role("dialog")
    # Nothing is computed before it is asked for.
    expect(dialog.get_by_text("Nearest in the same split")).to_be_visible()
    expect(screen.keyed("detail maps")).to_have_count(0)
    screen.click(dialog.get_by_text("Where it looks", exact=True))
    chart = screen.chart("detail maps")
    expect(chart).to_be_visible()
    expect(chart.locator(".heatmaplayer image, .heatmaplayer .hm")).not_to_have_count(0)
    for one in runs:
        expect(chart).to_contain_text(run_label(one)[:10])
    expect(dialog.get_by_text("they add up to the score")).to_be_visible()
    screen.idle()

    screen.open("Audit", **at, classifier=after.run_id, closer="Where it looks")
    expect(screen.chart("look groups")).to_be_visible()
    expect(
        page.get_by_text(re.compile("Worst group: (narrow|wide), (red|green)")).last
    ).to_be_visible()
    expect(screen.box("Where the object is")).to_have_value("square")
    assert list((before.path / "looks").iterdir())

    screen.open("Compare", **at)
    expect(page.get_by_role("heading", name="Where do they look?")).to_be_visible()
    screen.click(page.get_by_text("Measure whether they look at the object"))
    expect(screen.chart("look groups")).to_be_visible()
    assert 0 < float(screen.metric("Mean AIoU")) < 1
    screen.sound()
