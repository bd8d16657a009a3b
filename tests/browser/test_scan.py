"""From a scan to its samples, and to groups made of what it found in the images."""

import numpy as np
import pytest
from playwright.sync_api import expect

import gsr_core as gsr
from gsr_core.data.bundle import open_bundle
from gsr_core.scanning.measured import load_measured


def test_a_scan_leads_to_samples_and_to_groups(screen, dashboard, ids):
    place, page = dashboard.workspace, screen.page
    bundle = dashboard.bundle()
    (run,) = [run for run in dashboard.runs() if run.run_id == ids["erm"]]
    screen.open("Audit", bundle=bundle.name, closer="Shortcuts")
    rows = screen.keyed("scan")
    expect(rows).not_to_contain_text("hue")  # Nothing is read until it is asked for.
    screen.press(f"Measure the images of {len(bundle):,} samples")

    # Meanwhile, samples: of the class and side whose accuracy was shown.
    colour = gsr.scan(bundle, run).table.set_index("attribute").loc["colour"]
    shown = f"{colour['accuracy_without']:.1%} → {colour['accuracy_with']:.1%}"
    expect(rows).to_contain_text(shown)
    link = screen.keyed("scan samples colour").get_by_role("link").first
    expect(link).to_contain_text(f"{colour['gap_side']}: {colour['n_with']:.0f}")
    screen.click(link)
    screen.arrive("Samples")
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {colour['n_with']:.0f} samples")
    page.go_back()
    screen.arrive("Audit")

    expect(rows).to_contain_text("hue")
    screen.idle()
    measured = load_measured(place, bundle)
    found = gsr.scan(bundle, run, measured=measured)
    suspects = int((found.table["verdict"] == "possible shortcut").sum())
    expect(page.get_by_text(f"{suspects} possible shortcuts", exact=True)).to_be_visible()
    screen.chart("gaps")
    screen.click(page.get_by_text("Every attribute in numbers"))
    screen.idle()
    numbers = {row["attribute"]: row["association"] for row in screen.table("goes with")}
    assert {name: float(value) for name, value in numbers.items()} == pytest.approx(
        found.table.set_index("attribute")["association"].to_dict()
    )

    # Groups: of one side under a name that is taken, then of every value.
    screen.press("Make groups of an attribute")
    screen.choose("Side", "red")
    page.get_by_label("Name of the bundle", exact=True).fill(bundle.name)
    screen.press("Make the bundle")
    expect(page.get_by_text(f"Bundle '{bundle.name}' exists already")).to_be_visible()
    page.keyboard.press("Escape")
    screen.press("As groups", within=screen.keyed("scan samples hue"))
    screen.arrive("Setup")
    screen.wait_query(bundle="coloured-digits-by-hue")
    made = open_bundle(place, "coloured-digits-by-hue")
    red = np.array(["red" in name for name in made.group_names])
    np.testing.assert_array_equal(
        made.membership[:, red].any(axis=1), (measured["hue"] == "red").to_numpy()
    )
