"""From a scan to its samples, to groups of what it found in the images, and to a repair."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect

import gsr_core as gsr
from gsr_core.data.bundle import open_bundle
from gsr_core.runs.samples import sample_table
from gsr_core.runs.summary import summarise
from gsr_core.scanning.measured import load_measured
from tests.squares import import_squares


def test_a_shortcut_that_no_column_tells_is_found_repaired_and_looked_at(
    screen, dashboard, waiting, tmp_path
):
    place, page = dashboard.workspace, screen.page
    bundle, colour_of = import_squares(
        place,
        tmp_path,
        {"train": 240, "validation": 160, "test": 160},
        agree={"train": 0.96, "validation": 0.5, "test": 0.5},
        widths=(10, 13),
        attributes=False,
    )
    before = gsr.run(place, "squares", "llr", device="cpu")

    def true_worst(run):
        table = sample_table(run, "test")
        colours = table["sample_id"].map(colour_of)
        return table.groupby(["y", colours])["correct"].mean().min()

    at = {"bundle": "squares", "run": before.run_id, "classifier": before.run_id}
    screen.open("Audit", **at, closer="Shortcuts")
    # Nothing is read until it is asked for.
    expect(page.get_by_text("its images were not measured yet")).to_be_visible()
    screen.press(f"Measure the images of {len(bundle):,} samples")
    hue = screen.keyed("scan samples hue")
    expect(hue).to_be_visible()
    screen.idle()
    measured = load_measured(place, bundle)
    found = gsr.scan(bundle, before, measured=measured)
    suspects = int((found.table["verdict"] == "possible shortcut").sum())
    expect(page.get_by_text(f"{suspects} possible shortcuts", exact=True)).to_be_visible()
    row = found.table.set_index("attribute").loc["hue"]
    assert row["verdict"] == "possible shortcut"
    shown = f"{row['accuracy_without']:.1%} → {row['accuracy_with']:.1%}"
    expect(screen.keyed("scan")).to_contain_text(shown)
    screen.chart("gaps")
    screen.click(page.get_by_text("Every attribute in numbers"))
    screen.idle()
    numbers = {each["attribute"]: each["association"] for each in screen.table("goes with")}
    assert {name: float(value) for name, value in numbers.items()} == pytest.approx(
        found.table.set_index("attribute")["association"].to_dict(), abs=0.006
    )
    link = hue.get_by_role("link").first
    expect(link).to_contain_text(f"{row['gap_side']}: {row['n_with']:.0f}")
    screen.click(link)
    screen.arrive("Samples")
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {row['n_with']:.0f} samples")
    page.go_back()
    screen.arrive("Audit")

    # Groups: of one side under a name that is taken, then of every value.
    screen.press("Make groups of an attribute")
    screen.choose("Attribute", "hue")
    screen.choose("Side", "red")
    page.get_by_label("Name of the bundle", exact=True).fill("squares")
    screen.press("Make the bundle")
    expect(page.get_by_text("Bundle 'squares' exists already")).to_be_visible()
    page.keyboard.press("Escape")
    screen.press("As groups", within=hue)
    screen.arrive("Setup")
    screen.wait_query(bundle="squares-by-hue")
    made = open_bundle(place, "squares-by-hue")
    red = np.array(["red" in name for name in made.group_names])
    np.testing.assert_array_equal(
        made.membership[:, red].any(axis=1), (measured["hue"] == "red").to_numpy()
    )
    screen.follow("Run")
    screen.enter("steps", 60)
    screen.press("Start")

    def repairs():
        runs = [run for run in dashboard.runs("finished") if run.config.method == "gsr"]
        return [run for run in runs if run.config.bundle == "squares-by-hue"]

    waiting(repairs, "the run to finish")
    (after,) = repairs()
    screen.idle()
    assert true_worst(before) < 0.3
    # What the groups by hue say is what the groups that nobody told say.
    assert summarise(after)["test"]["worst_group_accuracy"] == pytest.approx(true_worst(after))
    assert true_worst(after) > true_worst(before) + 0.3

    at = {"bundle": "squares-by-hue", "run": after.run_id}
    screen.open("Audit", **at, closer="Where it looks")
    expect(screen.chart("look groups")).to_be_visible()
    expect(screen.box("Where the object is")).to_have_value("square")
    expect(
        page.get_by_text(re.compile("Worst group: (narrow|wide), (red|green)")).last
    ).to_be_visible()
    screen.open("Compare", **at)
    screen.click(page.get_by_text("Measure whether they look at the object"))
    expect(screen.chart("look groups")).to_be_visible()
    assert 0 < float(screen.metric("Mean AIoU")) < 1
    screen.sound()
