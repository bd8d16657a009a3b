"""The map component by itself, on a small page of its own."""

import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

PAGE = """
import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.views.map_chart import select_rows, selectable_map, selected_rows

random = np.random.default_rng(0)
n = int(st.query_params.get("n", 0))
# Four heaps in the corners; the maps differ in which lies where.
heap = np.concatenate([np.repeat(np.arange(4), [10, 20, 30, 40]), random.integers(0, 4, n)])
spread = random.uniform(-0.1, 0.1, (len(heap), 2))
spread[:4] = 0  # all on one spot

def points(turn):
    corner = np.array([[-1, 1], [1, 1], [1, -1], [-1, -1]])[(heap + turn) % 4]
    table = pd.DataFrame(corner + spread, columns=["x", "y"])
    return table.assign(row=np.arange(len(heap)) + 1000, heap=heap.astype(str), number=spread[:, 0])

st.set_page_config(layout="wide")
colour = st.radio("Colour", ["heap", "number"])
if st.button("Focus one"):
    st.session_state["focus"] = 1050
if st.button("Choose three"):
    select_rows(np.array([1000, 1015, 1099]))

@st.fragment
def charts():
    chosen = selected_rows("page")
    new = {}
    for key, column in zip(("left", "right"), st.columns(2)):
        with column:
            new[key] = selectable_map(
                points(key == "right"),
                key=key,
                colour=colour,
                kind="category" if colour == "heap" else "value",
                chosen=chosen,
                focus=st.session_state.get("focus"),
                on_top=np.arange(100),
                alt=f"Map on the {key}.",
            )
    told = [key for key, rows in new.items() if rows is not None]
    st.text(f"{len(chosen)} rows {np.bincount(heap[chosen - 1000], minlength=4).tolist()} {told}")

charts()
"""

PICTURE = """
async canvas => {
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
  return canvas.toDataURL();
}
"""
"""What a canvas shows some frames later."""


@pytest.fixture(scope="module")
def page_url(tmp_path_factory, waiting):
    script = tmp_path_factory.mktemp("page") / "page.py"
    script.write_text(PAGE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "server.port": port,
        "server.address": "127.0.0.1",
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += [f"--{name}={value}" for name, value in settings.items()]
    log = script.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=script.parent)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health") as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    waiting(answers, "the page with maps to answer")
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=300)


class Maps:
    """The page with two maps, and a hand on the mouse."""

    def __init__(self, screen, url: str) -> None:
        self.screen = screen
        self.page = screen.page
        self.page.goto(url)
        for key in ("left", "right"):
            expect(self.plot(key)).to_have_attribute("data-painted", re.compile("."))
        screen.idle()

    def plot(self, key: str):
        return self.screen.keyed(key).locator(".plot")

    def at(self, key: str, x: float, y: float) -> tuple[float, float]:
        """A place by its fractions of the plot, from the left and from above."""
        area = self.plot(key).bounding_box()
        assert area is not None
        return area["x"] + x * area["width"], area["y"] + y * area["height"]

    def drag(self, key: str, corners) -> None:
        first, *others = [self.at(key, *corner) for corner in corners]
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for other in others:
            self.page.mouse.move(*other, steps=4)
        self.page.mouse.up()

    def lasso(self, key: str, left: float, top: float, right: float, bottom: float) -> None:
        self.drag(key, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def tell(self, count: str) -> None:
        expect(self.page.get_by_test_id("stText")).to_have_text(count)
        self.screen.idle()

    def picture(self, key: str) -> str:
        """What the canvas shows, once it stays the same."""
        before, now = "", self.plot(key).locator("canvas").evaluate(PICTURE)
        while now != before:
            before, now = now, self.plot(key).locator("canvas").evaluate(PICTURE)
        return now


@pytest.fixture
def maps(windows, page_url):
    return Maps(windows(SimpleNamespace(url=page_url)), page_url)


TOP_LEFT, TOP = (0.01, 0.01, 0.5, 0.5), (0.01, 0.01, 0.99, 0.5)


def test_a_lasso_selects_exactly_what_is_inside_on_both_maps(maps):
    bare = maps.picture("right")
    maps.lasso("left", *TOP_LEFT)
    maps.tell("10 rows [10, 0, 0, 0] ['left']")
    for key in ("left", "right"):
        expect(maps.screen.keyed(key).get_by_role("status")).to_have_text("10 selected")
    assert maps.picture("right") != bare
    # The outline is where it was drawn, and only there.
    expect(maps.plot("left").locator(".outline")).to_have_count(1)
    expect(maps.plot("right").locator(".outline")).to_have_count(0)
    maps.lasso("right", *TOP_LEFT)
    maps.tell("40 rows [0, 0, 0, 40] ['right']")
    expect(maps.plot("left").locator(".outline")).to_have_count(0)


def test_boxes_add_with_shift_take_away_with_alt_and_escape_lets_go(maps):
    maps.screen.click(maps.screen.keyed("left").get_by_role("button", name="Box (B)"))
    maps.drag("left", [(0.01, 0.01), (0.99, 0.5)])
    maps.tell("30 rows [10, 20, 0, 0] ['left']")
    maps.page.keyboard.down("Shift")
    maps.drag("left", [(0.5, 0.5), (0.99, 0.99)])
    maps.page.keyboard.up("Shift")
    maps.tell("60 rows [10, 20, 30, 0] ['left']")
    maps.page.keyboard.down("Alt")
    maps.drag("left", [(0.5, 0.01), (0.99, 0.99)])
    maps.page.keyboard.up("Alt")
    maps.tell("10 rows [10, 0, 0, 0] ['left']")
    maps.plot("left").press("Escape")
    maps.tell("0 rows [0, 0, 0, 0] ['left']")


def test_a_click_selects_a_sample_and_a_double_click_lets_go(maps):
    maps.page.mouse.click(*maps.at("left", *crowded_spot(maps)))
    maps.tell("1 rows [1, 0, 0, 0] ['left']")
    maps.page.mouse.dblclick(*maps.at("left", 0.5, 0.5))
    maps.tell("0 rows [0, 0, 0, 0] ['left']")


def crowded_spot(maps) -> tuple[float, float]:
    """Where on the left map four samples lie on one another, at (-1, 1)."""
    area = maps.plot("left").bounding_box()
    half = min(area["width"], area["height"]) / 2 - 14
    # The whole view reaches from -1.1 to 1.1, save for its margin of 14 pixels.
    return 0.5 - half / 1.1 / area["width"], 0.5 - half / 1.1 / area["height"]


def test_a_highlight_changes_neither_selection_nor_zoom(maps):
    maps.lasso("left", *TOP)
    maps.tell("30 rows [10, 20, 0, 0] ['left']")
    maps.screen.click(maps.screen.keyed("left").get_by_role("button", name="Zoom in (+)"))
    before = {key: maps.picture(key) for key in ("left", "right")}
    maps.screen.press("Focus one")
    for key in ("left", "right"):
        expect(maps.plot(key).locator(".ring")).to_have_count(1)
        expect(maps.plot(key).locator(".name")).to_have_text("row 1050")
        assert maps.picture(key) == before[key]
    expect(maps.plot("left").locator(".outline")).to_have_count(1)
    maps.tell("30 rows [10, 20, 0, 0] []")


def test_a_colouring_changes_the_picture_and_not_the_selection(maps):
    maps.lasso("left", *TOP_LEFT)
    maps.tell("10 rows [10, 0, 0, 0] ['left']")
    before = maps.picture("left")
    maps.screen.click(maps.page.get_by_text("number", exact=True))
    expect(maps.screen.keyed("left").locator(".key .title")).to_have_text("number")
    maps.tell("10 rows [10, 0, 0, 0] []")
    assert maps.picture("left") != before
    expect(maps.plot("left").locator(".outline")).to_have_count(1)


def test_a_selection_from_elsewhere_is_shown_without_an_outline(maps):
    maps.lasso("left", *TOP_LEFT)
    maps.tell("10 rows [10, 0, 0, 0] ['left']")
    maps.screen.press("Choose three")
    maps.tell("3 rows [1, 1, 0, 1] []")
    expect(maps.screen.keyed("right").get_by_role("status")).to_have_text("3 selected")
    expect(maps.page.locator(".outline")).to_have_count(0)


def test_moving_is_not_selecting_and_the_whole_map_comes_back(maps):
    whole = maps.picture("left")
    maps.plot("left").press("m")
    maps.drag("left", [(0.5, 0.5), (0.8, 0.6)])
    assert maps.picture("left") != whole
    maps.tell("0 rows [0, 0, 0, 0] []")
    maps.plot("left").press("0")
    assert maps.picture("left") == whole


def test_pointing_says_what_the_colour_means(maps):
    maps.page.mouse.move(*maps.at("left", *crowded_spot(maps)))
    expect(maps.plot("left").locator(".tip")).to_have_text(re.compile(r"heap: 0\s*row 100[0-3]"))
    expect(maps.page.get_by_role("figure", name="Map on the left.")).to_be_visible()


def test_a_map_needs_no_webgl(windows, page_url):
    screen = windows(SimpleNamespace(url=page_url), fresh=True)
    screen.page.add_init_script(
        "const real = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...more) {"
        "  return /webgl/.test(kind) ? null : real.call(this, kind, ...more); };"
    )
    maps = Maps(screen, page_url)
    maps.lasso("left", *TOP)
    maps.tell("30 rows [10, 20, 0, 0] ['left']")


def test_a_lasso_on_a_density_image_takes_all_that_is_inside(windows, page_url):
    maps = Maps(windows(SimpleNamespace(url=page_url)), f"{page_url}?n=200000")
    expect(maps.screen.keyed("left").locator(".key")).to_contain_text("samples in a cell, log")
    maps.lasso("left", 0.01, 0.01, 0.99, 0.99)
    expect(maps.page.get_by_test_id("stText")).to_contain_text("200100 rows")
