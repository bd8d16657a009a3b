"""How the weights move."""

import re

import pytest
from playwright.sync_api import expect

from gsr_core.runs.execute import run as compute_run

GROWN = """
() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(({_fullLayout: layout}) =>
  ['l', 'r', 't', 'b'].filter(side => layout._size[side] > layout.margin[side] + 1)
    .map(side => `${side} of ${layout.yaxis.title.text}: ${layout._size[side]}`))
"""


def test_every_chart_is_drawn_the_table_adds_up_and_the_slider_moves_both(screen, ids):
    screen.open("Weights", run=ids["gsr short"])
    page = screen.page
    screen.click(page.get_by_text("Which group drives the weights"))
    for key in ("shares", "spread", "ess", "gamma"):
        expect(screen.chart(key).locator(".trace, .bars").first).to_be_attached()
    # A margin that grows means that the chart was drawn twice.
    assert page.evaluate(GROWN) == []
    rows = screen.table("share of weight")
    assert len(rows) == 4
    assert sum(float(row["share of weight"]) for row in rows) == pytest.approx(1.0, abs=1e-4)
    assert sum(int(row["samples"]) for row in rows) == 644

    kept = int(re.findall(r"\d+", page.get_by_test_id("stSliderThumbValue").inner_text())[0])
    heading = "Weights inside each group at step"
    expect(page.get_by_role("heading", name=f"{heading} {kept}")).to_be_visible()
    first = page.get_by_role("heading", name=f"{heading} 1", exact=True)
    screen.key_until(page.get_by_role("slider", name="Step"), "Home", first)
    screen.wait_query(step="1")
    screen.idle()
    # At the first step all weigh the same.
    shown = [float(row["mean weight ×"]) for row in screen.table("share of weight")]
    assert shown == pytest.approx([1.0] * 4)

    # The address has kept it.
    page.reload()
    screen.arrive("Weights")
    expect(page.get_by_role("heading", name=f"{heading} 1", exact=True)).to_be_visible()

    screen.click(page.get_by_role("link", name="All, lightest at the kept step first"))
    screen.arrive("Samples")
    expect(screen.box("Order")).to_have_value("lightest")
    screen.wait_query(sort="lightest")


def test_the_terms_of_a_loss_are_drawn_and_words_to_train_with_are_typed(screen, dashboard):
    settings = {"steps": 3, "batch_size": 32, "device": "cpu"}
    made = compute_run(dashboard.workspace, "coloured-digits", "projection", **settings)
    screen.open("Weights", run=made.run_id)
    for key in ("terms", "skipped"):
        expect(screen.chart(key).locator(".trace")).to_have_count(2)
        expect(screen.chart(key)).to_contain_text("between groups")
    assert screen.page.evaluate(GROWN) == []

    # A list draws only what is in sight of many methods, and of what was typed.
    screen.open("Run", bundle="coloured-digits")
    screen.unfold(screen.box("Method"))
    screen.box("Method").fill("Text projection")
    screen.choose("Method", "Text projection: contrasts of images and words")
    screen.click(screen.page.get_by_text("More settings"))
    screen.enter("class words", "low; high")
    typed = screen.page.get_by_test_id("stCode").first
    expect(typed).to_contain_text("--set 'class_words=low; high'")
