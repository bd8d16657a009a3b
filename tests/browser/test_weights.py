"""How the weights move."""

import re

import pytest
from playwright.sync_api import expect


@pytest.fixture
def weights(screen, ids):
    screen.open("Weights", run=ids["gsr short"])
    return screen


@pytest.mark.parametrize("key", ["shares", "spread", "ess", "gamma"])
def test_every_chart_is_drawn(weights, key: str):
    if key == "gamma":
        weights.page.get_by_text("Which group drives the weights").click()
    chart = weights.chart(key)
    expect(chart.locator(".trace, .bars").first).to_be_attached()


def test_the_slider_moves_what_is_shown(weights):
    kept = int(
        re.findall(r"\d+", weights.page.get_by_test_id("stSliderThumbValue").inner_text())[0]
    )
    expect(
        weights.page.get_by_role("heading", name=f"Weights inside each group at step {kept}")
    ).to_be_visible()
    weights.page.get_by_role("slider", name="Step").press("Home")
    expect(
        weights.page.get_by_role("heading", name="Weights inside each group at step 1", exact=True)
    ).to_be_visible()
    weights.wait_query(step="1")
    weights.idle()
    # At the first step all weigh the same.
    shown = [float(row["mean weight ×"]) for row in weights.table("share of weight")]
    assert shown == pytest.approx([1.0] * 4)


def test_the_table_adds_up(weights):
    rows = weights.table("share of weight")
    assert len(rows) == 4
    assert sum(float(row["share of weight"]) for row in rows) == pytest.approx(1.0, abs=1e-4)
    assert sum(int(row["samples"]) for row in rows) == 644


def test_the_strips_lead_to_the_samples(weights):
    weights.page.get_by_role("link", name="All, lightest first").click()
    weights.arrive("Samples")
    expect(weights.box("Order")).to_have_value("lightest")
    weights.wait_query(sort="lightest")


def test_a_run_without_weights_says_so(screen, ids):
    screen.open("Weights", run=ids["erm"])
    expect(screen.page.get_by_text("ERM gives no sample weights")).to_be_visible()
