"""Every page in light and dark, kept as pictures to look at."""

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import expect

PAGES = ("Setup", "Audit", "Run", "Weights", "Samples", "Map", "Compare", "Study", "Sweep")


NARROW = {"width": 900, "height": 800}
NO_SIDEWAYS_SCROLLING = """
() => {
  const main = document.querySelector('[data-testid=stMain]');
  return main.scrollWidth - main.clientWidth <= 1;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_in_both_schemes_and_narrow(
    windows, dashboard, ids, tmp_path: Path, scheme: Literal["light", "dark"]
):
    screen = windows(dashboard, color_scheme=scheme)
    for name in PAGES:
        choices = {"layout": "pca"} if name == "Map" else {}
        screen.open(name, run=ids["gsr"], **choices)
        for chart in screen.page.get_by_test_id("stPlotlyChart").all():
            if not chart.is_visible():
                continue  # Inside what is folded up.
            expect(chart.locator(".main-svg").first).to_be_visible()
        if name == "Map":
            screen.page.wait_for_timeout(1000)  # WebGL says nothing when its points are there.
        print(screen.save(tmp_path, f"{scheme}-{name.lower()}"))
        assert screen.page.locator(".stException").count() == 0
        if scheme == "light":  # Widths are those of the dark pages too.
            size = screen.page.viewport_size
            screen.page.set_viewport_size(NARROW)
            screen.page.wait_for_function(NO_SIDEWAYS_SCROLLING)  # Charts follow a moment later.
            screen.page.set_viewport_size(size)
    screen.open("Samples", run=ids["gsr"], sample=int(dashboard.bundle().rows_of["heldout"][3]))
    expect(screen.page.get_by_role("dialog")).to_be_visible()
    screen.chart("detail influence")
    print(screen.save(tmp_path, f"{scheme}-detail"))
    ink = screen.page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    brightness = sum(map(int, ink.removeprefix("rgb(").removesuffix(")").split(","))) / 3
    assert (brightness > 128) == (scheme == "light")
