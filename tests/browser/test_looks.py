"""Every page in light and dark, kept as pictures to look at."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

PAGES = ("Setup", "Audit", "Run", "Weights", "Samples", "Map", "Compare", "Study", "Sweep")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_in_both_schemes(windows, dashboard, ids, tmp_path: Path, scheme: str):
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
    screen.open("Samples", run=ids["gsr"], sample=int(dashboard.bundle().rows_of["heldout"][3]))
    expect(screen.page.get_by_role("dialog")).to_be_visible()
    screen.chart("detail influence")
    print(screen.save(tmp_path, f"{scheme}-detail"))
    ink = screen.page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    brightness = sum(map(int, ink.removeprefix("rgb(").removesuffix(")").split(","))) / 3
    assert (brightness > 128) == (scheme == "light")


def test_a_narrow_window_has_no_sideways_scrolling(windows, dashboard, ids):
    screen = windows(dashboard)
    screen.page.set_viewport_size({"width": 900, "height": 800})
    for name in PAGES:
        screen.open(name, run=ids["gsr"], **({"layout": "pca"} if name == "Map" else {}))
        wider = screen.page.get_by_test_id("stMain").evaluate("e => e.scrollWidth - e.clientWidth")
        assert wider <= 1, f"{name} is {wider} pixels too wide"
