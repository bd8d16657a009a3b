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
    expect(rows).to_contain_text("colour")
    expect(rows).not_to_contain_text("hue")  # Nothing is read until it is asked for.
    screen.press(f"Measure the images of {len(bundle):,} samples")
    expect(rows).to_contain_text("hue")
    screen.idle()
    screen.sound()
    measured = load_measured(place, bundle)
    found = gsr.scan(bundle, run, measured=measured)
    suspects = int((found.table["verdict"] == "possible shortcut").sum())
    expect(page.get_by_text(f"{suspects} possible shortcuts", exact=True)).to_be_visible()
    screen.chart("gaps")
    hue = found.table.set_index("attribute").loc["hue"]
    expect(rows).to_contain_text(f"{hue['accuracy_without']:.1%} → {hue['accuracy_with']:.1%}")

    screen.click(page.get_by_text("Every attribute in numbers"))
    screen.idle()
    shown = {row["attribute"]: row for row in screen.table("goes with")}
    assert set(shown) == set(found.table["attribute"])
    assert float(shown["hue"]["association"]) == pytest.approx(hue["association"])

    # Its samples: of the class and side whose accuracy was shown.
    link = screen.keyed("scan samples hue").get_by_role("link").first
    expect(link).to_contain_text(f"{hue['gap_side']}: {hue['n_with']:.0f}")
    screen.click(link)
    screen.arrive("Samples")
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {hue['n_with']:.0f} samples")
    page.go_back()
    screen.arrive("Audit")

    # Its groups: of one side under a name that is taken, then of every value.
    screen.press("Make groups of an attribute")
    screen.choose("Attribute", "hue")
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
