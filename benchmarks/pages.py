"""How long the dashboard takes to come, and then each page, in a real browser.

    python benchmarks/pages.py [DIRECTORY] [--rows 100000] [--repeats 5]

The bundle and its run are those of `million.py`, with as many rows. The maps of the weighted rows,
by PCA, are computed before the clock starts. Then, in seconds:

* *start*: from starting `gsr app` until a page is at rest with its picture drawn, *cold* with the
  files of the program, its libraries and the bundle dropped from the system's cache, and *warm*
  with them there; the browser runs already;
* *first*, *again*: from the click on a page's link to the moment from which on script, images and
  layout are at rest, at the first visit and in the median of later ones;
* *colour*: the same from a choice of another colour on Map.

Needs Chrome or Chromium, as the browser tests do, whose ways around the dashboard it uses.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from million import NAME, again, forget
from playwright.sync_api import Browser, Page, expect, sync_playwright

import gsr_core
from gsr_core.data.bundle import list_bundles, open_bundle
from gsr_core.maps.compute import compute_map
from gsr_core.maps.config import map_config
from gsr_core.maps.heads import map_head
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.store import Run, list_runs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
from conftest import LISTEN, PATIENCE, SIZE, Dashboard, Screen, find_browser

START = {"Setup": "svg.main-svg", "Samples": "img", "Map": "canvas, svg.main-svg"}
"""Pages that the dashboard is started for, and what a picture is there."""

PAGES = ("Samples", "Weights", "Map", "Audit", "Compare", "Run", "Setup")

COLOURS = ("loss", "place", "weight", "group")

WATCH = """
() => addEventListener('click', () => {
  const clicked = performance.now(), now = window.watched = {seconds: 0};
  const look = () => {
    if (window.watched !== now) return;
    const app = document.querySelector('[data-testid=stApp]');
    if (window.scriptAwaited
        || app.getAttribute('data-test-script-state') !== 'notRunning'
        || document.querySelector('[data-stale=true], [data-testid=stSkeleton]')
        || [...document.images].some(image => !image.complete))
      now.seconds = (performance.now() - clicked) / 1000;
    requestAnimationFrame(look);
  };
  look();
}, {capture: true})
"""
"""Notes, frame by frame, how long after the last click something was still under way."""

SECONDS = "() => window.watched.seconds"


def prepare(dashboard: Dashboard, rows: int) -> Run:
    """Make bundle, run and maps, unless the directory holds them already."""
    place = dashboard.workspace
    words = [str(place.root), "--rows", str(rows)]
    if not list_bundles(place):
        again([*words, "--only", "make"])
    if not list_runs(place):
        again([*words, "--only", "compute"])
        # The dashboard would start it while the clock runs.
        compute_run(place, NAME, "erm", device="cpu")
    bundle = open_bundle(place, NAME)
    run = next(run for run in list_runs(place) if run.config.method == "gsr")
    head = map_head(bundle, run)
    for space in ("gradients", "features"):
        config = map_config(bundle, head, space=space, splits=[run.values_split])
        compute_map(place, bundle, head, config)
    return run


def window(browser: Browser) -> Page:
    """Return a new window, whose browser has kept nothing."""
    page = browser.new_context(viewport=SIZE, reduced_motion="reduce").new_page()
    page.add_init_script(LISTEN)
    page.add_init_script(f"({WATCH.strip()})()")
    return page


def starts(dashboard: Dashboard, browser: Browser, run: Run) -> None:
    """Print the seconds of a start."""
    libraries = Path(gsr_core.__file__).parents[1]
    for name, cache in product(START, ("cold", "warm")):
        if cache == "cold":
            for folder in (dashboard.workspace.root, libraries / "gsr_core", site_packages()):
                forget(folder)
        page = window(browser)
        begun = time.perf_counter()
        dashboard.start()
        answered = time.perf_counter() - begun
        page.goto(f"{dashboard.url}/{name.lower()}?run={run.run_id}&layout=pca")
        page.locator(f"[data-testid=stMain] {START[name]}").first.wait_for(state="visible")
        drawn = time.perf_counter() - begun
        dashboard.stop()
        page.context.close()
        print(f"start {cache} {name:10} answers {answered:6.2f}  picture {drawn:6.2f}", flush=True)


def site_packages() -> Path:
    """Return the folder of the installed libraries."""
    import streamlit

    return Path(streamlit.__file__).parents[1]


def visits(dashboard: Dashboard, browser: Browser, run: Run, repeats: int) -> None:
    """Print the seconds of visits to every page, and of other colours on Map."""
    dashboard.start()
    screen = Screen(window(browser), dashboard.url)
    screen.open("Guide", run=run.run_id, layout="pca")
    seconds: dict[str, list[float]] = {name: [] for name in PAGES}
    for _ in range(repeats + 1):
        for name in PAGES:
            screen.follow(name)
            seconds[name].append(screen.page.evaluate(SECONDS))
    print("page        first  again")
    for name, (first, *later) in seconds.items():
        print(f"{name:10} {first:6.2f} {statistics.median(later):6.2f}", flush=True)
    screen.follow("Map")
    changes = []
    for colour in COLOURS * 2:
        screen.choose("Colour", colour)
        changes.append(screen.page.evaluate(SECONDS))
    first, later = changes[: len(COLOURS)], changes[len(COLOURS) :]
    print(f"{'colour':10} {max(first):6.2f} {statistics.median(later):6.2f}", flush=True)
    dashboard.close()


def main() -> None:
    """Prepare, start, and go round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, help="a temporary one by default")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        dashboard = Dashboard(arguments.directory or Path(folder) / "workspace")
        run = prepare(dashboard, arguments.rows)
        expect.set_options(timeout=1000 * PATIENCE)
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        starts(dashboard, browser, run)
        visits(dashboard, browser, run, arguments.repeats)
        browser.close()


if __name__ == "__main__":
    main()
