"""The Map page: maps of samples, and what is selected on them."""

import io
import re
import shutil
import time
from math import cos, pi, sin

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect

from gsr_core.data.bundle import open_bundle
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.runs.execute import run as compute_run

UMAP = 600_000
"""Milliseconds that UMAP may take with its compilation, on a slow machine."""
MANY = 50_000


def plot(screen, space: str):
    return screen.keyed(f"map {space}").locator(".plot").first


def drawn(screen, *spaces: str) -> None:
    """Wait until maps are painted."""
    for space in spaces or ("gradients", "features"):
        expect(plot(screen, space)).to_have_attribute("data-painted", re.compile("."))
    screen.idle()


def heading(screen):
    return screen.page.get_by_role("heading", name=re.compile(r"^[\d,]+ selected$"))


def number(text: str) -> int:
    return int(text.split()[0].replace(",", ""))


def lasso(screen, space: str, *, width: float, height: float = 0.48) -> int:
    """Draw an ellipse around the middle of a map; return how many samples are selected."""
    before = heading(screen).all_inner_texts()
    plot(screen, space).scroll_into_view_if_needed()
    area = plot(screen, space).bounding_box()
    corners = [2 * pi * k / 24 for k in range(25)]
    path = [
        (
            area["x"] + area["width"] * (0.5 + width * cos(angle)),
            area["y"] + area["height"] * (0.5 + height * sin(angle)),
        )
        for angle in corners
    ]
    screen.page.mouse.move(*path[0])
    screen.page.mouse.down()
    for point in path[1:]:
        screen.page.mouse.move(*point, steps=2)
    screen.page.mouse.up()
    screen.page.wait_for_function(
        "before => [...document.querySelectorAll('h3')].some("
        "h => / selected$/.test(h.innerText) && !before.includes(h.innerText))",
        arg=before,
    )
    screen.idle()
    return number(heading(screen).inner_text())


def marked(screen, space: str, count: int) -> None:
    """Wait until a map says how many samples are selected."""
    expect(screen.keyed(f"map {space}").get_by_role("status")).to_have_text(f"{count:,} selected")


@pytest.fixture
def pca(screen, ids):
    """The maps with the layout that needs no waiting."""
    screen.open("Map", run=ids["gsr"], layout="pca")
    drawn(screen)
    return screen


def test_pca_is_there_at_once_and_umap_follows(screen, dashboard, ids):
    # No other test looks at this map; it is computed anew if this one is run again.
    shutil.rmtree(dashboard.workspace.maps, ignore_errors=True)
    screen.page.goto(f"{screen.url}/map?run={ids['gsr']}&split=train")
    under_way = screen.page.get_by_text(re.compile("UMAP of the (gradients|features): "))
    expect(under_way.first).to_be_visible()
    for space in ("Gradients", "Features"):
        expect(screen.page.get_by_text(f"{space}, PCA")).to_be_visible()
    for space in ("Gradients", "Features"):
        expect(screen.page.get_by_text(f"{space}, UMAP")).to_be_visible(timeout=UMAP)
    expect(under_way).to_have_count(0)
    drawn(screen)
    screen.sound()


def test_a_lasso_on_one_map_fills_the_gallery_marks_the_other_and_goes_to_samples(pca):
    expect(pca.page.get_by_text(re.compile("Nothing is selected."))).to_be_visible()
    few = lasso(pca, "gradients", width=0.2)
    cards = pca.page.locator("[class*='st-key-selected-card']")
    expect(cards).to_have_count(min(few, 6))
    # The answer is beside the map, and so on the screen together with it.
    pca.page.evaluate("window.scrollTo(0, 0)")
    answer, chart = (each.bounding_box() for each in (heading(pca), plot(pca, "gradients")))
    assert answer["x"] > chart["x"] + chart["width"]
    assert abs(answer["y"] - chart["y"]) < 200
    expect(plot(pca, "gradients")).to_have_attribute(
        "aria-label", re.compile(r"Gradients, PCA: map of 644 samples, coloured by group\. Arrows")
    )
    many = lasso(pca, "features", width=0.48)
    assert 0 < few < many
    for space in ("gradients", "features"):
        marked(pca, space, many)
    expect(pca.keyed("selected bar")).to_contain_text(f"of {many:,} samples")
    pca.adds_up("selected", many)

    pca.click(pca.page.get_by_role("link", name="Open these in Samples"))
    pca.arrive("Samples")
    expect(pca.keyed("gallery bar")).to_contain_text(f"of {many:,} samples")
    pca.page.reload()
    pca.arrive("Samples")
    expect(pca.keyed("gallery bar")).to_contain_text(f"of {many:,} samples")
    pca.press(f"{many:,} selected")
    expect(pca.keyed("gallery bar")).to_contain_text("of 644 samples")
    pca.wait_query(slice=None)


def test_a_card_rings_its_sample_and_neither_that_nor_a_colour_lets_go(pca):
    count = lasso(pca, "gradients", width=0.4)
    card = pca.page.locator("[class*='st-key-selected-card']").first
    name = card.inner_text().split("\n")[-1]
    pca.click(card.locator("button:visible").last)
    dialog = pca.page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=name)).to_be_visible()
    pca.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    for space in ("gradients", "features"):
        expect(plot(pca, space).locator(".ring")).to_have_count(1)
        expect(plot(pca, space).locator(".name")).to_have_text(name)
        marked(pca, space, count)
    for colour, title in (
        ("weight", "weight"),
        ("right or wrong", "right or wrong"),
        ("prediction", "prediction"),
        ("influence: 0-4, green", "influence: 0-4, green"),
    ):
        pca.choose("Colour", colour)
        pca.wait_query(colour=colour)
        expect(pca.keyed("map features").locator(".key .title")).to_have_text(title)
        marked(pca, "gradients", count)
    pca.sound()


def test_other_spaces_heads_dimensions_and_the_colours_of_another_run(pca, ids):
    more = pca.page.get_by_role("button", name="More")
    pca.choose("Space", "influence")
    drawn(pca, "influence")
    pca.choose("Space", "logits")
    pca.click(more)
    pca.choose("Head whose gradients and logits are drawn", "an early-stopped")
    pca.wait_query(head="early")
    expect(pca.page.get_by_text("Logits of an early-stopped head, PCA")).to_be_visible()
    drawn(pca, "logits")
    pca.open("Map", run=ids["gsr"], layout="pca", space="features", other=ids["gsr short"])
    drawn(pca, f"features {ids['gsr']}", f"features {ids['gsr short']}")
    count = lasso(pca, f"features {ids['gsr short']}", width=0.3)
    marked(pca, f"features {ids['gsr']}", count)
    pca.open("Map", run=ids["gsr"], layout="pca", space="features", dimensions="3-D")
    expect(pca.chart("map features").locator("canvas").first).to_be_attached()


# Many samples ---------------------------------------------------------------------------------


@pytest.fixture
def many(empty_dashboard):
    """A dashboard on a bundle with 50,000 samples in test, and the run of its ERM head."""
    random = np.random.default_rng(0)
    small, place = 400, empty_dashboard.workspace
    split = np.repeat(["heldout", "target", "val", "test"], [small, small, small, MANY])
    y = random.integers(0, 2, len(split))
    attribute = np.where(random.random(len(split)) < 0.8, y, 1 - y)
    features = random.normal(size=(len(split), 6)).astype(np.float32)
    features[:, 0] += 2 * y
    features[:, 1] += 3 * attribute
    picture = encoded_image(random)
    write_bundle(
        place.bundles / "many",
        samples=pd.DataFrame(
            {"sample_id": [f"s{row}" for row in range(len(split))], "split": split, "y": y}
        ),
        membership=(2 * y + attribute)[:, None] == np.arange(4),
        groups=[Group(name=f"group {g}", definition=f"group {g}") for g in range(4)],
        classes=["a", "b"],
        features=features,
        source="made for a test",
        thumbnails=(picture for _ in split),
    )
    made = compute_run(place, "many", "erm", device="cpu")
    return made.run_id


def encoded_image(random) -> bytes:
    """A small image, encoded."""
    sink = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def test_fifty_thousand_samples_are_drawn_and_selected(empty_screen, empty_dashboard, many):
    screen = empty_screen
    began = time.perf_counter()
    screen.page.goto(f"{screen.url}/map?run={many}&split=test&layout=pca&space=features")
    expect(plot(screen, "features")).to_have_attribute(
        "data-painted", re.compile("."), timeout=UMAP
    )
    screen.idle()
    painted = time.perf_counter() - began
    bundle = open_bundle(empty_dashboard.workspace, "many")
    for width in (0.25, 0.48):
        began = time.perf_counter()
        count = lasso(screen, "features", width=width, height=width)
        expect(screen.page.locator("[class*='st-key-selected-card'] img").first).to_be_visible()
        seconds = time.perf_counter() - began
        print(f"{count:,} of {MANY:,} selected, pictures after {seconds:.2f} s")
        marked(screen, "features", count)
        screen.adds_up("selected", count)
    print(f"{MANY:,} points painted after {painted:.1f} s, PCA included")
    assert MANY / 2 < count <= len(bundle.rows_of["test"]) == MANY
