"""Every page light and dark, wide and narrow; pictures to look at where they are asked for."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

PAGES = (
    *("Setup", "Audit", "Run", "Weights", "Samples", "Map", "What if", "Label", "Compare"),
    *("Study", "Sweep"),
    "Guide",
)
NARROW = {"width": 900, "height": 800}
NO_SIDEWAYS_SCROLLING = """
() => {
  const main = document.querySelector('[data-testid=stMain]');
  return main.scrollWidth - main.clientWidth <= 1;
}
"""
IN_SCHEME = """
scheme => {
  const app = document.querySelector('[data-testid=stApp]');
  const [red, green, blue] = getComputedStyle(app).backgroundColor.match(/\\d+/g).map(Number);
  return (red + green + blue > 3 * 128) === (scheme === 'light');
}
"""


@pytest.fixture
def keep_picture():
    """Keep what a window shows in the folder `$GSR_TEST_PICTURES`, if that is set."""
    folder = os.environ.get("GSR_TEST_PICTURES")

    def keep(screen, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            print(screen.save(Path(folder), name))

    return keep


def look(screen, scheme: str) -> None:
    """Wait until a page stands in a scheme with all its charts."""
    screen.page.wait_for_function(IN_SCHEME, arg=scheme)
    screen.idle()
    for chart in screen.page.get_by_test_id("stPlotlyChart").all():
        if chart.is_visible():  # Not inside what is folded up.
            expect(chart.locator(".main-svg").first).to_be_visible()
    for chart in screen.page.locator("div.plot").all():
        expect(chart).to_have_attribute("data-painted", re.compile("."))
    screen.sound()


def test_every_page_in_both_schemes_and_narrow(windows, dashboard, ids, keep_picture):
    screen = windows(dashboard)
    for name in PAGES:
        choices = {"layout": "pca"} if name == "Map" else {}
        screen.page.emulate_media(color_scheme="light")
        screen.open(name, run=ids["gsr"], **choices)
        look(screen, "light")
        keep_picture(screen, f"light-{name.lower()}")
        size = screen.page.viewport_size
        screen.page.set_viewport_size(NARROW)
        screen.page.wait_for_function(NO_SIDEWAYS_SCROLLING)  # Charts follow a moment later.
        screen.page.set_viewport_size(size)
        screen.page.emulate_media(color_scheme="dark")
        look(screen, "dark")
        keep_picture(screen, f"dark-{name.lower()}")


def test_a_sample_in_full_opens_in_the_dark(windows, dashboard, ids, keep_picture):
    screen = windows(dashboard, color_scheme="dark")
    screen.open("Samples", run=ids["gsr"], sample=int(dashboard.bundle().rows_of["heldout"][3]))
    expect(screen.page.get_by_role("dialog")).to_be_visible()
    screen.chart("detail influence")
    look(screen, "dark")
    keep_picture(screen, "dark-detail")
