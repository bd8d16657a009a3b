"""The frame around every page: navigation, bundle and run, and runs under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import streamlit as st
from filelock import FileLock
from PIL import Image, ImageDraw
from streamlit.delta_generator import DeltaGenerator

from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.jobs.lock import BACKGROUND
from gsr_core.jobs.queue import ensure_worker
from gsr_core.methods.base import Values
from gsr_core.methods.registry import METHODS
from gsr_core.names import method_label
from gsr_core.progress import Status
from gsr_core.runs.job import device_queue, ensure_run_worker, submit
from gsr_core.runs.store import Run, create_run, list_runs
from gsr_core.runs.summary import run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import badge, plain, show_error
from gsr_core.views.missing import is_missing, say_missing_bundle, say_missing_runs
from gsr_core.views.session import bundle_names, is_active, load_bundle, runs_of, workspace

__all__ = ["Frame", "frame", "link", "start"]

_RECENT = 50
"""Runs of the whole workspace, the newest ones, at which the chip looks."""

_STYLE = """
<style>
a:focus-visible, button:focus-visible, summary:focus-visible, [tabindex]:focus-visible {
  outline: 3px solid #2f81f7 !important;
  outline-offset: 2px;
}
.stImage {column-gap: 0.5rem}
[class*='st-key-'][class*='-card-'] {position: relative}
[class*='st-key-open-'], [class*='st-key-open-'] * {position: static !important}
[class*='st-key-open-'] button::after {content: ''; position: absolute !important; inset: 0}
</style>
"""
"""What has the focus of the keyboard is seen, images of a strip stand apart, and a click anywhere
on a card opens its sample."""


@dataclass(frozen=True)
class Frame:
    """The bundle and the runs that a page shows.

    Attributes:
        bundle: The chosen bundle.
        runs: Its runs, newest first.
        run: The chosen run, if the page needs one.
    """

    bundle: Bundle
    runs: list[Run]
    run: Run | None

    @property
    def ended(self) -> list[Run]:
        """The runs that have ended with a head, newest first."""
        return [run for run in self.runs if (run.path / "head.safetensors").exists()]


def start(title: str, question: str) -> None:
    """Begin a page: links to the other pages, its title, and the question it answers."""
    links, _ = _begin(title, question)
    _draw_links(links)


def _begin(title: str, question: str) -> tuple[DeltaGenerator, DeltaGenerator]:
    """Begin a page; return the container for the links, and the row of the heading.

    The row has room for choices on its right.
    """
    st.set_page_config(page_title=f"{title} · GSR", page_icon=_icon(), layout="wide")
    nav.begin()
    st.html(_STYLE)
    _warm_workers()
    links = st.container(horizontal=True, vertical_alignment="center", gap="small", key="pages")
    row = st.container(horizontal=True, vertical_alignment="bottom", key="head")
    with row, st.container(gap=None):
        st.title(title, anchor=False)
        st.caption(question)
    return links, row


def _draw_links(container: DeltaGenerator) -> None:
    with container:
        for name, script in nav.PAGES.items():
            st.page_link(script, label=name, query_params=nav.params(sample=None))


def frame(title: str, question: str, *, needs_run: bool = False) -> Frame:
    """Begin a page about a bundle, and perhaps a run; stop if there is none.

    Args:
        title: Title of the page.
        question: The question it answers.
        needs_run: Whether the page needs a run that has ended.
    """
    links, row = _begin(title, question)
    try:
        chosen = _chosen(row, title, needs_run=needs_run)
    except _MissingError as missing:
        _draw_links(links)
        missing.draw()
        st.stop()
    # Late, so that they carry every choice: an address that a page has to complete is one more
    # step for the browser's back button.
    _draw_links(links)
    return chosen


class _MissingError(Exception):
    """The bundle or the run of the page is missing; `draw` says so."""

    def __init__(self, draw: Callable[[], object]) -> None:
        super().__init__()
        self.draw = draw


def _chosen(row: DeltaGenerator, title: str, *, needs_run: bool) -> Frame:
    """Draw the choice of bundle and run, and return it.

    Raises:
        _MissingError: If there is none.
    """
    names = bundle_names()
    if not names:
        raise _MissingError(
            partial(
                _nothing,
                "No data yet.",
                "Prepare the built-in example or import your own.",
                "Setup",
            )
        )
    with row:
        name = nav.select(
            "bundle",
            "Bundle",
            names,
            clears=("run", "runs", "group", "sample", "slice", "changed", "clusters", "other"),
            width=220,
        )
        try:
            bundle = load_bundle(name)
            everything = list_runs(workspace())
            if _ensure_baseline(bundle, everything):
                everything = list_runs(workspace())
        except (GsrError, OSError) as error:
            raise _MissingError(partial(show_error, error)) from error
        every = runs_of(bundle, everything)
        page = Frame(bundle, _listed(every), None)
        lost = is_missing("bundle", names)
        if not lost:
            nav.put(bundle=name)
        if needs_run and page.ended:
            labels = {run.run_id: run_label(run) for run in page.ended}
            run_id = nav.select(
                "run",
                "Run",
                list(labels),
                default=_newest_weighted(page.ended),
                clears=("step", "sample"),
                format_func=lambda run_id: labels[run_id],
                width=340,
            )
            run = next(run for run in page.ended if run.run_id == run_id)
            lost_run = lost or is_missing("run", list(labels))
            if METHODS[run.config.method].values is not Values.NONE and not lost_run:
                # In the URL, so that a link shows this run also when newer ones exist.
                nav.put(run=run_id)
            page = Frame(bundle, page.runs, run)
        _chip(page.runs, everything)
    if lost:
        say_missing_bundle(name)
    else:
        say_missing_runs(title, bundle, every)
    if needs_run and page.run is None:
        raise _MissingError(
            partial(
                _nothing, "No run has ended on this bundle yet.", "Start GSR and come back.", "Run"
            )
        )
    return page


def _listed(runs: list[Run]) -> list[Run]:
    """Leave out the runs of studies, except those of a study whose run the address names."""
    named = {nav.get("run"), *nav.get("runs").split(",")}
    part_of = {run.run_id: run.config.part_of for run in runs}
    shown = {"", *(part for run_id, part in part_of.items() if run_id in named)}
    return [run for run in runs if part_of[run.run_id] in shown]


def link(page: str, label: str, **changes: object) -> None:
    """Draw a link to another page, with changed choices.

    One to Samples shows just the samples that it is about, whatever was searched for there.
    """
    if page == "Samples":
        changes = {**dict.fromkeys(nav.FOUND_BY), **changes}
    st.page_link(nav.PAGES[page], label=label, query_params=nav.params(**changes))


def _nothing(what: str, advice: str, page: str) -> None:
    with st.container(border=True, key="nothing"):
        st.subheader(what, anchor=False)
        st.write(advice)
        link(page, f"Go to {page}")


def _newest_weighted(runs: list[Run]) -> str:
    """Return the newest run that weights samples, else the newest."""
    weighted = [run.run_id for run in runs if METHODS[run.config.method].values is not Values.NONE]
    return (weighted or [runs[0].run_id])[0]


def _has_baseline(bundle: Bundle, runs: list[Run]) -> bool:
    mine = (run.config for run in runs_of(bundle, runs))
    return any(config.is_erm and not config.part_of for config in mine)


def _ensure_baseline(bundle: Bundle, runs: list[Run]) -> bool:
    """Queue the reference run once: every page compares with the classifier as it came.

    Args:
        bundle: The data.
        runs: Of the workspace.

    Returns:
        Whether there are more runs now.
    """
    if _has_baseline(bundle, runs):
        return False
    place = workspace()
    place.jobs.mkdir(parents=True, exist_ok=True)
    # Two tabs may arrive at once; the second then finds the run of the first.
    with FileLock(place.jobs / f"baseline-{bundle.manifest.digest[:16]}.lock"):
        if not _has_baseline(bundle, list_runs(place)):
            submit(create_run(place, str(bundle.path), "erm"))
    return True


@st.cache_resource(show_spinner=False, ttl=60)
def _warm_workers() -> None:
    """Start the workers with the dashboard, so that the first run starts at once too.

    Not yet when a session begins: on few cores, its first page would wait for what they import.
    """
    if not st.session_state.get("page shown"):
        st.session_state["page shown"] = True
        return
    ensure_worker(workspace(), device_queue("auto"))
    ensure_worker(workspace(), BACKGROUND)


def _chip(runs: list[Run], everything: list[Run]) -> None:
    """Say which run is being computed, also for another bundle, and look every second.

    Args:
        runs: Of the bundle; when one of them ends, the page is drawn again.
        everything: Of the workspace, newest first.
    """
    mine = [run for run in runs if is_active(run)]
    # What waits or computes is new; to look at thousands of runs would take longer than the page.
    recent = [run for run in everything[:_RECENT] if run not in mine and is_active(run)]
    active = sorted([*mine, *recent], key=everything.index)

    def progress() -> None:
        if not all(is_active(run) for run in mine):
            nav.refresh()
        here = [run for run in active if is_active(run)]
        if not here:
            return
        # Oldest first, as they are computed; what computes goes before what waits.
        at_work = [run for run in reversed(here) if run.state.status is Status.RUNNING]
        waiting = len(here) - len(at_work)
        for run in at_work:
            badge(_step_of(run, runs), colour="blue")
        if not at_work:
            ensure_run_worker(here[-1])
        if waiting:
            badge(f"{waiting} waiting" if at_work else f"{waiting} queued", colour="gray")

    if active:
        st.fragment(progress, run_every=1.0)()


def _step_of(run: Run, here: list[Run]) -> str:
    """Return where a run is, with its bundle if that is not the page's."""
    state, config = run.state, run.config
    left = (state.steps - state.step) * state.seconds / max(state.step, 1)
    elsewhere = "" if run in here else f" on {plain(config.bundle)}"
    time = f" · {left:.0f} s left" * (state.step > 0)
    return f"{method_label(config.method)}{elsewhere} step {state.step} of {state.steps}{time}"


@st.cache_resource(show_spinner=False)
def _icon() -> Image.Image:
    """Draw the page's icon: two unequal weights."""
    image = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(image)
    draw.ellipse((4, 22, 36, 54), fill="#0072B2")
    draw.ellipse((40, 10, 60, 30), fill="#E69F00")
    return image
