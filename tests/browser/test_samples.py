"""Which samples got the most and the least weight, and why."""

import re

import pandas as pd
import pytest
from playwright.sync_api import expect


@pytest.fixture
def samples(screen, ids):
    screen.open("Samples", run=ids["gsr"])
    return screen


def card_weights(screen) -> list[float]:
    """Return the weights on the cards, in the order shown."""
    texts = cards(screen).all_inner_texts()
    return [float(re.findall(r"([\d.e+-]+)× weight", text)[0]) for text in texts]


def count(screen) -> int:
    said = screen.keyed("gallery bar").inner_text()
    return int(re.findall(r"of ([\d,]+) samples", said)[0].replace(",", ""))


def cards(screen):
    return screen.page.locator("[class*='st-key-gallery-card']")


def test_heaviest_first_then_lightest_first(samples, dashboard, ids):
    run = next(run for run in dashboard.runs() if run.run_id == ids["gsr"])
    stored = run.weights()["weight"].to_numpy()
    relative = stored / stored.mean()
    expect(cards(samples)).to_have_count(24)
    shown = card_weights(samples)
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == pytest.approx(relative.max(), rel=5e-3)
    samples.choose("Order", "lightest")
    samples.wait_query(sort="lightest")
    shown = card_weights(samples)
    assert shown == sorted(shown)
    assert shown[0] == pytest.approx(relative.min(), abs=1e-6)
    # Other splits have no weights and say so.
    samples.choose("Split", "test")
    expect(samples.page.get_by_text("The samples of test carry no weight")).to_be_visible()
    expect(samples.box("Order")).to_have_value("highest loss")


def test_filters_leave_what_they_say(samples, dashboard):
    bundle = dashboard.bundle()
    heldout = bundle.rows_of["heldout"]
    size = int(bundle.membership[heldout, bundle.group_names.index("5-9, red")].sum())
    assert count(samples) == len(heldout)
    samples.choose("Group", "5-9, red")
    assert count(samples) == size
    expect(cards(samples).first).to_contain_text("5-9, red")
    samples.choose("Class", "digit 0-4")
    expect(samples.page.get_by_text("No sample is left.")).to_be_visible()
    expect(samples.page.get_by_text("group 5-9, red, class digit 0-4")).to_be_visible()
    samples.choose("Group", "all")
    assert count(samples) == (bundle.samples["y"].to_numpy()[heldout] == 0).sum()
    samples.choose("Prediction", "wrong")
    wrong = count(samples)
    samples.choose("Prediction", "right")
    assert count(samples) + wrong == (bundle.samples["y"].to_numpy()[heldout] == 0).sum()


def test_pages_page_sizes_and_the_download(samples):
    bar = samples.keyed("gallery bar")
    expect(bar).to_contain_text("1–24 of 644 samples")
    first = cards(samples).first.inner_text()
    samples.click(bar.get_by_role("button", name="Page 2", exact=True))
    expect(bar).to_contain_text("25–48 of 644 samples")
    expect(cards(samples).first).not_to_have_text(first, use_inner_text=True)
    samples.click(bar.get_by_role("button", name="Page 27"))
    expect(bar).to_contain_text("625–644 of 644 samples")
    expect(cards(samples)).to_have_count(20)
    samples.click(bar.get_by_role("radio", name="48"))
    expect(bar).to_contain_text("1–48 of 644 samples")
    expect(cards(samples)).to_have_count(48)

    # What is taken home has the rows shown.
    samples.choose("Group", "0-4, green")
    shown = count(samples)
    button = samples.page.get_by_role("button", name=f"Download these {shown} as CSV")
    table = pd.read_csv(samples.download(button))
    assert len(table) == shown
    assert set(table["group"]) == {"0-4, green"}
    assert table["weight"].is_monotonic_decreasing
    assert {"sample_id", "y", "prediction", "loss", "rank"} <= set(table.columns)


def test_a_sample_in_full_and_the_way_through_the_order(samples, dashboard):
    page = samples.page
    names = [each.inner_text().split("\n")[-1] for each in cards(samples).all()[:3]]
    # A click anywhere on the card, such as on its image.
    place = cards(samples).first.locator("img").bounding_box()
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=names[0])).to_be_visible()
    expect(dialog.get_by_role("img", name=f"sample {names[0]}").first).to_be_visible()
    expect(dialog).to_contain_text(re.compile(r"Weight [\d.]+× an equal share, rank 1 of 644"))
    expect(dialog).to_contain_text("not why the weight grew before")
    for key in ("detail path", "detail influence"):
        expect(samples.chart(key)).to_be_visible()
    expect(dialog.get_by_text(re.compile("cosine distance"))).to_have_count(6)
    assert samples.query["sample"].isdigit()
    expect(dialog.get_by_role("button", name="Previous")).to_be_disabled()

    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading", name=names[1])).to_be_visible()
    samples.idle()
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading", name=names[2])).to_be_visible()
    samples.idle()
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("heading", name=names[1])).to_be_visible()
    samples.idle()
    row = int(samples.query["sample"])
    assert dashboard.bundle().samples["sample_id"].iloc[row] == names[1]

    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    samples.wait_query(sample=None)


def test_neighbours_lead_on_and_know_both_spaces(samples):
    samples.click(cards(samples).first.locator("button:visible").last)
    dialog = samples.page.get_by_role("dialog")
    near = dialog.locator("[class*='st-key-detail-near'] button")
    expect(near).to_have_count(6)
    by_features = near.all_inner_texts()
    samples.click(dialog.get_by_role("radio", name="gradients"))
    samples.idle()
    expect(near).to_have_count(6)
    assert near.all_inner_texts() != by_features
    name = near.first.inner_text()
    samples.click(near.first)
    expect(dialog.get_by_role("heading", name=name)).to_be_visible()
    samples.sound()
