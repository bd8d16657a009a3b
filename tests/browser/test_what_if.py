"""The page What if: rows from other pages, a refit, what it did, and the run it is kept as."""

import re

import numpy as np
from playwright.sync_api import expect

from gsr_core.curation.slices import list_slices
from gsr_core.what_if.refits import open_refits
from gsr_core.what_if.selection import Selection, make_edit, the_first
from tests.browser.test_map import drawn, lasso


def number(text: str) -> float:
    return float(text.replace("\u2212", "-").replace(",", ""))


def test_samples_are_taken_out_of_a_run_and_the_refit_is_kept(screen, dashboard, ids, waiting):
    bundle = dashboard.bundle()
    (run,) = (each for each in dashboard.runs() if each.run_id == ids["gsr"])
    refits = open_refits(run)
    group = bundle.membership[:, bundle.group_names.index("0-4, green")]
    rows = refits.position[group[refits.position]]

    # From the filters of Samples to the page, with the rows in the address.
    screen.open("Samples", run=ids["gsr"], split="heldout", group="0-4, green")
    screen.press("What if?")
    screen.arrive("What if")
    assert screen.query["slice"]
    said = f"Without {len(rows)} rows (the selection): {len(rows)} of {len(refits.position)} rows"
    expect(screen.page.get_by_text(said)).to_be_visible()
    screen.press("Refit")
    edit = make_edit(refits, Selection(rows, "the selection"), "drop")
    table = refits.changes(refits.refit(edit), "test")
    screen.chart("group changes")
    worst = table["after"].min()
    assert screen.metric("Worst group") == f"{worst:.1%}"
    shown = screen.table("predicted")
    assert [row["group"] for row in shown] == bundle.group_names
    for name in ("loss change", "predicted"):
        expected = table[name.replace(" ", "_")]
        np.testing.assert_allclose([number(row[name]) for row in shown], expected, atol=6e-4)

    # Another edit hides what is no longer of it, until it is asked for.
    screen.choose("Rows", "heaviest")
    screen.choose("Edit", "call them another class")
    screen.enter("How many", 15)
    expect(screen.keyed("group changes")).to_have_count(0)
    screen.press("Refit")
    screen.click(screen.page.get_by_role("radio", name="loss"))
    edit = make_edit(refits, the_first(run, 15, "heaviest"), "relabel", label="digit 0-4")
    expect(screen.chart("group changes")).to_contain_text("change of loss, nats")
    screen.press("100 random subsets")
    expect(screen.page.get_by_text("Influence ranks what happens").first).to_be_visible()
    screen.idle()
    assert 0.9 < float(screen.metric("Influence ranks what happens")) <= 1
    screen.chart("predicted and happened")

    # Kept, it is a run that Compare takes.
    screen.press("Keep as a run")
    kept = waiting(lambda: len(dashboard.runs("finished")) > len(ids) and dashboard.runs()[0], "it")
    assert kept.config.variation["edits"][0]["rows"] == edit.rows
    np.testing.assert_allclose(
        kept.head()[0], refits.refit(edit).head.weight.numpy(), rtol=0, atol=1e-6
    )
    screen.idle()
    compare = screen.page.get_by_role("link", name="Kept: compare the two")
    expect(compare).to_have_attribute("href", re.compile(f"runs={run.run_id}.*{kept.run_id}"))
    assert not list_slices(dashboard.workspace, bundle)

    # From a lasso on the map, whose samples are those of the address.
    screen.open("Map", run=ids["gsr"], layout="pca")
    drawn(screen)
    count = lasso(screen, "gradients", width=0.2)
    screen.press("What if?")
    screen.arrive("What if")
    expect(screen.page.get_by_text("(the selection)")).to_contain_text(f"{count} of ")
