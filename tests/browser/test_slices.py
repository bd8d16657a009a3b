"""A slice and flags on their way through the pages."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

from gsr_core.curation.flags import flagged
from gsr_core.curation.slices import find_slice, list_slices

NAME = "wrong greens: *第一*"


def fill(screen, opener: str, label: str, text: str, button: str) -> None:
    """Open what is folded, type, and press."""
    screen.fill_popover(re.compile(opener), label, text, button)
    screen.idle()
    screen.sound()


def right(dashboard, run_id: str, rows: np.ndarray) -> np.ndarray:
    """Return which rows a run's head gets right, computed from its numbers."""
    run = next(run for run in dashboard.runs() if run.run_id == run_id)
    bundle, (weight, bias) = dashboard.bundle(), run.head()
    logits = np.asarray(bundle.features[rows]) @ weight.T + bias
    return logits.argmax(axis=1) == bundle.samples["y"].to_numpy()[rows]


def test_a_slice_saved_on_samples_is_judged_on_audit_and_compare(screen, dashboard, ids):
    bundle, place = dashboard.bundle(), dashboard.workspace
    test = bundle.rows_of["test"]
    group = bundle.membership[test, bundle.group_names.index("0-4, green")]
    expected = test[group & ~right(dashboard, ids["llr"], test)]
    assert len(expected) >= 20

    screen.open("Audit", bundle="coloured-digits")
    expect(screen.page.get_by_text("No slice is saved on this bundle yet.")).to_be_visible()
    screen.open("Samples", run=ids["llr"], split="test", group="0-4, green", prediction="wrong")
    fill(screen, "^Save these", "Name of the slice", NAME, "Save")
    made = find_slice(place, bundle, NAME)
    np.testing.assert_array_equal(made.rows, expected)
    assert made.about.startswith("Samples of split test, group 0-4, green, prediction wrong")
    fill(screen, "^Save these", "Name of the slice", NAME, "Save")
    expect(screen.page.get_by_text("exists already; choose another name")).to_be_visible()

    # As a filter beside the others.
    screen.open("Samples", run=ids["erm"], split="test")
    screen.choose("Slice", NAME)
    screen.wait_query(slice=made.key)
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {len(expected)} samples")
    wrong = expected[~right(dashboard, ids["erm"], expected)]
    screen.choose("Prediction", "wrong")
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {len(wrong)} samples")

    # Audit: the slice like a group, and the page within it.
    screen.follow("Audit")
    expect(screen.box("Slice")).to_have_value(NAME)
    accuracy = 1 - len(wrong) / len(expected)
    assert screen.metric("Mean accuracy") == f"{accuracy:.1%}"
    assert screen.metric("Worst group: 0-4, green") == f"{accuracy:.1%}"
    expect(screen.chart("slice accuracy")).to_contain_text(f"n = {len(expected)}")
    expect(screen.chart("slice accuracy")).to_contain_text("worst slice")
    said = f"{NAME}, {accuracy:.1%} right of {len(expected)} samples, of which 100.0% are"
    expect(screen.page.get_by_text(said)).to_be_visible()
    screen.click(screen.keyed("slice mistakes").get_by_role("link", name=f"{len(wrong)} of"))
    screen.arrive("Samples")
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {len(wrong)} samples")

    # Compare: each entry on the slice, and what was fixed inside it.
    chosen = ",".join([ids["erm"], ids["gsr"]])
    screen.open("Compare", bundle="coloured-digits", runs=chosen, slice=made.key)
    screen.click(screen.page.locator("summary", has_text="Each slice in numbers"))
    screen.chart("slice dots")
    (row,) = screen.table("slice")
    assert row["slice"] == NAME
    for label, run in (("ERM", "erm"), ("GSR", "gsr")):
        mean = right(dashboard, ids[run], expected).mean()
        assert float(row[label]) == pytest.approx(mean)
    fixed = ~right(dashboard, ids["erm"], expected) & right(dashboard, ids["gsr"], expected)
    link = screen.keyed("changed").get_by_role("link").last
    assert link.inner_text().split()[0] == str(fixed.sum())
    screen.click(link)
    screen.arrive("Samples")
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {fixed.sum()} samples")

    # Renamed and deleted where they are looked after.
    screen.open("Samples", run=ids["erm"], slice=made.key, split="val")
    expect(screen.page.get_by_text("No sample is left.")).to_be_visible()
    screen.click(screen.page.locator("summary", has_text="Slices and flags of this bundle"))
    fill(screen, "^Rename", "New name", "greens", "Rename the slice")
    assert [each.name for each in list_slices(place, bundle)] == ["greens"]
    expect(screen.box("Slice")).to_have_value("greens")
    delete = screen.page.get_by_role("button", name="Delete the slice", exact=True)
    screen.unfold_popover(re.compile("^Delete"), delete)
    screen.press("Delete the slice")
    expect(screen.page.get_by_text("No slice is saved on this bundle yet.")).to_be_visible()
    assert list_slices(place, bundle) == []


def test_flags_are_seen_on_the_cards_changed_in_the_detail_and_taken_home(screen, dashboard, ids):
    bundle, place, page = dashboard.bundle(), dashboard.workspace, screen.page
    screen.open("Samples", run=ids["llr"], split="val", group="5-9, red", prediction="wrong")
    fill(screen, "^Flag these", "Reason", "wrong red", "Flag")
    flags = flagged(place, bundle)
    val = bundle.rows_of["val"]
    red = val[bundle.membership[val, bundle.group_names.index("5-9, red")]]
    np.testing.assert_array_equal(flags["row"], red[~right(dashboard, ids["llr"], red)])
    cards = page.locator("[class*='st-key-gallery-card']")
    expect(cards.filter(has_text="flagged")).to_have_count(min(len(flags), 24))

    screen.click(cards.first.locator("button:visible").last)
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("flagged: wrong red")).to_be_visible()
    row = int(screen.query["sample"])
    screen.click(dialog.locator("summary", has_text="Change the flag"))
    dialog.get_by_label("One more reason").fill("blurred")
    dialog.get_by_label("Note").fill("could be a 3")
    screen.pick(dialog.get_by_role("combobox", name="Proposed label"), "digit 0-4")
    screen.press("Save", dialog)
    expect(dialog.get_by_text("flagged: wrong red; blurred")).to_be_visible()
    mine = flagged(place, bundle).set_index("row").loc[row]
    assert (mine["note"], mine["proposed_label"]) == ("could be a 3", "digit 0-4")
    way = dialog.get_by_role("link", name="Show on the map").get_attribute("href")
    assert f"sample={row}" in way
    assert "split=val" in way
    page.keyboard.press("Escape")
    screen.wait_query(sample=None)

    screen.open("Samples", run=ids["llr"], split="val", slice="flagged")
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {len(flags)} samples")
    screen.click(page.locator("summary", has_text="Slices and flags of this bundle"))
    file = screen.download(page.get_by_role("button", name="Flags as parquet"))
    table = pd.read_parquet(io.BytesIO(file.read_bytes()))
    assert table["row"].tolist() == flags["row"].tolist()
    assert table.set_index("row").loc[row, "reason"] == "wrong red; blurred"

    remove = f"Remove the flags of {len(flags)}"
    screen.unfold_popover(
        re.compile("^Flag these"), page.get_by_role("button", name=remove, exact=True)
    )
    screen.press(remove)
    expect(page.get_by_text("No sample is left.")).to_be_visible()
    assert flagged(place, bundle).empty
