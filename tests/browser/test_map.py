"""Maps, and the samples that are selected on them."""

import re

import pytest
from playwright.sync_api import expect

UMAP = 180_000
"""Milliseconds that UMAP may take with its compilation, on a slow machine."""


def selected(screen) -> int:
    heading = screen.page.get_by_role("heading", name=re.compile(r"^[\d,]+ selected$"))
    expect(heading).to_be_visible()
    return int(heading.inner_text().split()[0].replace(",", ""))


def drawn(screen) -> None:
    """Wait until both maps can be drawn on: WebGL says nothing when its points are there."""
    for space in ("gradients", "features"):
        chart = screen.chart(f"map {space}")
        expect(chart.locator("canvas").first).to_be_attached()
    screen.page.wait_for_timeout(1000)


def lasso(screen, *, width: float, x: float = 0.5) -> int:
    """Draw around the middle of the map of gradients; return how many samples are selected."""
    before = screen.page.get_by_role("heading", name=re.compile("selected$")).all_inner_texts()
    screen.drag_ellipse(screen.chart("map gradients"), x, 0.5, width, 0.48)
    screen.page.wait_for_function(
        "before => [...document.querySelectorAll('h3')].some("
        "h => / selected$/.test(h.innerText) && !before.includes(h.innerText))",
        arg=before,
    )
    screen.idle()
    return selected(screen)


@pytest.fixture
def pca(screen, ids):
    """The map with the layout that needs no waiting."""
    screen.open("Map", run=ids["gsr"], layout="pca")
    drawn(screen)
    return screen


def test_pca_is_there_at_once_and_umap_follows(screen, ids):
    # No other test looks at this map, so that UMAP is still to be computed.
    screen.page.goto(f"{screen.url}/map?run={ids['gsr']}&split=train")
    under_way = screen.page.get_by_text(re.compile("UMAP of the (gradients|features): "))
    expect(under_way.first).to_be_visible()
    for space in ("Gradients", "Features"):
        expect(screen.page.get_by_text(f"{space}, PCA")).to_be_visible()
    drawn(screen)
    for space in ("Gradients", "Features"):
        expect(screen.page.get_by_text(f"{space}, UMAP")).to_be_visible(timeout=UMAP)
    expect(under_way).to_have_count(0)
    screen.sound()


def test_a_lasso_fills_the_gallery_and_goes_to_samples(pca):
    expect(pca.page.get_by_text("Nothing is selected.")).to_be_visible()
    few = lasso(pca, width=0.2)
    cards = pca.page.locator("[class*='st-key-selected-card']")
    expect(cards).to_have_count(min(few, 12))
    many = lasso(pca, width=0.48)
    assert 0 < few < many
    expect(pca.keyed("selected bar")).to_contain_text(f"of {many:,} samples")

    pca.page.get_by_role("link", name="Open these in Samples").click()
    pca.arrive("Samples")
    expect(pca.keyed("gallery bar")).to_contain_text(f"of {many:,} samples")
    pca.page.reload()
    pca.arrive("Samples")
    expect(pca.keyed("gallery bar")).to_contain_text(f"of {many:,} samples")
    pca.press(f"{many:,} selected on the map")
    expect(pca.keyed("gallery bar")).to_contain_text("of 644 samples")
    pca.wait_query(slice=None)


def test_a_box_selects_and_a_double_click_lets_go(pca):
    chart = pca.chart("map features")
    chart.hover()
    chart.locator('[data-title="Box Select"]').click()
    area = chart.locator(".nsewdrag").first.bounding_box()
    pca.page.mouse.move(area["x"] + 0.1 * area["width"], area["y"] + 0.1 * area["height"])
    pca.page.mouse.down()
    pca.page.mouse.move(area["x"] + 0.8 * area["width"], area["y"] + 0.9 * area["height"], steps=10)
    pca.page.mouse.up()
    assert selected(pca) > 0
    pca.idle()
    area = chart.locator(".nsewdrag").first.bounding_box()
    pca.page.mouse.dblclick(area["x"] + area["width"] - 12, area["y"] + area["height"] - 12)
    expect(pca.page.get_by_text("Nothing is selected.")).to_be_visible()


def test_a_card_opens_the_sample(pca):
    lasso(pca, width=0.4)
    card = pca.page.locator("[class*='st-key-selected-card']").first
    name = card.inner_text().split("\n")[-1]
    card.locator("button:visible").last.click()
    dialog = pca.page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=name)).to_be_visible()
    pca.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    pca.sound()


@pytest.mark.parametrize("colour", ["weight", "right or wrong", "loss", "prediction"])
def test_colours_change(pca, colour: str):
    pca.choose("Colour", colour)
    pca.wait_query(colour=colour)
    pca.chart("map gradients")
    expect(pca.chart("map features")).to_contain_text(
        {"right or wrong": "wrong", "prediction": "digit 5-9"}.get(colour, colour)
    )


def test_one_space_alone(pca):
    pca.choose("Space", "features")
    pca.wait_query(space="features")
    expect(pca.page.locator("[class*='st-key-map-gradients']")).to_have_count(0)
    pca.chart("map features")
