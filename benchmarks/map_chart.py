"""What a lasso costs on our map, and on Streamlit's Plotly chart.

    python benchmarks/map_chart.py [--n 50000] [--charts own,plotly] [--browser /usr/bin/chromium]

Each chart is on a page of its own in a headless Chromium that draws without a GPU. Timed are: the
page until the chart is there (the second time, as the browser then has the programs); from letting
go of a lasso around everything to the count, a table and 24 pictures of what is selected, three
times; and from a button to a highlighted point. Beside elapsed seconds are processor seconds of
the server and all of the browser, which a busy machine changes less, and the largest message that
the lasso sent. Plotly shows a highlight by a new figure, so that its lasso is gone afterwards.

It fails if an answer of our map at up to 50,000 points takes longer than 1.5 s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

PAGE = """
import io
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from PIL import Image
from gsr_core.figures import theme
from gsr_core.views.map_chart import selectable_map, selected_rows

st.set_page_config(layout="wide")
chart, n = st.query_params["chart"], int(st.query_params["n"])

@st.cache_resource
def made(n):
    random = np.random.default_rng(0)
    heap = random.integers(0, 6, n)
    places = 3 * random.normal(size=(6, 2))[heap] + 0.7 * random.normal(size=(n, 2))
    table = pd.DataFrame(places.astype(np.float32), columns=["x", "y"])
    pictures = []
    for noise in random.integers(0, 255, (24, 96, 96, 3), dtype=np.uint8):
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "JPEG")
        pictures.append(file.getvalue())
    return table.assign(row=np.arange(n), heap=heap.astype(str)), pictures

points, pictures = made(n)
colours = theme.group_colours([str(heap) for heap in range(6)])

def own(focus):
    chosen = selected_rows("page")
    selectable_map(
        points, key="own", colour="heap", kind="category", colours=colours, chosen=chosen,
        focus=focus, alt="A map.",
    )
    return chosen

def plotly(focus):
    codes, marker = theme.category_codes(points["heap"], colours)
    trace = go.Scattergl(
        x=points["x"].to_numpy(), y=points["y"].to_numpy(), mode="markers",
        marker={**marker, "color": codes, "size": 3},
    )
    figure = go.Figure(trace).update_layout(dragmode="lasso", height=480, showlegend=False)
    if focus is not None:
        at = points.iloc[[focus]]
        figure.add_scattergl(x=at["x"], y=at["y"], mode="markers", marker={"size": 14})
    state = st.plotly_chart(figure, key="plotly", on_select="rerun", selection_mode=["lasso"])
    return np.array(state["selection"]["point_indices"], dtype=int)

@st.fragment
def body():
    left, right = st.columns([2, 1])
    with right:
        if st.button("Highlight"):
            st.session_state["focus"] = (st.session_state.get("focus", 0) + 7919) % n
        focus = st.session_state.get("focus")
    with left:
        chosen = {"own": own, "plotly": plotly}[chart](focus)
    with right:
        st.text(f"{len(chosen)} selected, highlight {focus}")
        if len(chosen):
            st.dataframe(points.iloc[chosen].head(100), height=100)
            with st.grid(min_column_width=60):
                for picture in pictures:
                    st.image(picture)

body()
"""

PROMISED = 1.5
"""Seconds within which our map answers a lasso..."""
PROMISED_AT = 50_000
"""... of at most so many points."""

AREAS = {"own": ".plot", "plotly": ".js-plotly-plot .nsewdrag"}
"""Where a lasso is drawn."""

QUIET = """
() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'
  && !document.querySelector('[data-stale=true], [data-testid=stSkeleton]')
  && [...document.images].every(image => image.complete)
"""

FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--charts", default="own,plotly")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("chrome"))
    chosen = parser.parse_args()
    with serving() as (url, server), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chosen.browser,
            args=["--no-sandbox", "--disable-gpu"],
        )
        for chart in chosen.charts.split(","):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.set_default_timeout(180_000)
            slowest = measure(page, f"{url}?chart={chart}&n={chosen.n}", chart, server)
            page.close()
            if chart == "own" and chosen.n <= PROMISED_AT and slowest > PROMISED:
                raise SystemExit(f"an answer took {slowest:.2f} s, more than {PROMISED} s")
        browser.close()


def measure(page: Page, url: str, chart: str, server: int) -> float:
    """Print what one chart costs, and return the seconds of its slowest answer to a lasso."""
    sent = [0]
    page.on(
        "websocket",
        lambda wire: wire.on("framesent", lambda data: sent.append(len(data))),
    )
    area = page.locator(AREAS[chart]).first

    def there() -> None:
        area.wait_for()
        page.wait_for_function(QUIET)
        page.evaluate(FRAMES)

    def opened() -> None:
        page.goto(url)
        there()

    opened()
    report(f"{chart}: page", server, opened)
    said = page.get_by_test_id("stText")
    answers = []
    for turn in range(3):
        before = said.inner_text()
        report(f"{chart}: drawing a lasso", server, lambda turn=turn: around(page, area, turn))
        sent[:] = [0]

        def answered(before: str = before) -> None:
            page.mouse.up()
            page.wait_for_function(
                "before => document.querySelector('[data-testid=stText]').innerText !== before"
                " && document.images.length >= 24",
                arg=before,
            )
            there()

        answers.append(report(f"{chart}: its answer", server, answered))
        print(f"    {said.inner_text()}, sent {max(sent) / 1e6:.3f} MB", flush=True)
    for _ in range(2):
        before = said.inner_text()

        def highlighted(before: str = before) -> None:
            page.get_by_role("button", name="Highlight").click()
            page.wait_for_function(
                "before => document.querySelector('[data-testid=stText]').innerText !== before",
                arg=before,
            )
            there()

        report(f"{chart}: a highlight", server, highlighted)
        print(f"    {said.inner_text()}", flush=True)
    return max(answers)


def around(page: Page, area: Locator, turn: int) -> None:
    """Draw around nearly everything without letting go; every turn takes in a little less."""
    box = area.bounding_box()
    assert box is not None
    inset = 0.005 + 0.03 * turn
    corners = [(inset, inset), (1 - inset, inset), (1 - inset, 1 - inset), (inset, 1 - inset)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=12)


def report(what: str, server: int, action: Callable[[], object]) -> float:
    """Print how long something took, and return the elapsed seconds."""
    elapsed, processor = time.perf_counter(), processor_seconds(server)
    action()
    page = time.perf_counter() - elapsed
    print(f"{what:28} {page:6.2f} s, processor {processor_seconds(server) - processor:6.2f} s")
    return page


def processor_seconds(server: int) -> float:
    """Return what the server, this process and all of their children have used (Linux)."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(place.parent.name))
        ticks = sum(int(field) for field in fields[11:15])
        used[int(place.parent.name)] = ticks / os.sysconf("SC_CLK_TCK")
    total, todo = 0.0, {os.getpid(), server}
    while todo:
        process = todo.pop()
        total += used.pop(process, 0.0)
        todo |= {child for child in children.get(process, []) if child in used}
    return total


@contextmanager
def serving() -> Iterator[tuple[str, int]]:
    """Serve the page; yield its address and the server's process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "page.py"
        script.write_text(PAGE)
        command = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}"]
        command += ["--server.address=127.0.0.1", "--server.headless=true"]
        command += ["--server.fileWatcherType=none", "--browser.gatherUsageStats=false"]
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL)
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
