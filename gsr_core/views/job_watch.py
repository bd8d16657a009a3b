"""How far a background job is, and what can be done about it, in one manner on every page."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from gsr_core.errors import GsrError
from gsr_core.jobs.base import Job
from gsr_core.jobs.queue import start_job
from gsr_core.jobs.state import JobState, read_job, request_stop, stop_requested
from gsr_core.progress import Status
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain
from gsr_core.views.session import workspace

__all__ = ["go_on_button", "needed_job", "say_why", "state_of", "watch_job"]

_POLL = 0.5
"""Seconds between two looks at a job under way."""


def state_of(job: Job) -> JobState | None:
    """Return how a job stands; None if it was never started."""
    return read_job(workspace(), job.kind, job.key)


def watch_job(
    state: JobState,
    *,
    says: Callable[[str], str] = str,
    part: str = "",
    about: str | None = None,
    changed: Callable[[], bool] | None = None,
    ended: Callable[[], object] | None = None,
    below: Callable[[], object] | None = None,
) -> None:
    """Draw how far a job is, again and again until it has ended; then the page is drawn anew.

    Args:
        state: Of a job under way.
        says: Makes what is shown of what the job says of itself.
        part: What the job finishes before it stops, such as `step`; "" lets nobody stop it.
        about: Shown at the button that stops it.
        changed: Whether the page shows too little by now; then it is drawn anew too.
        ended: Called when the job has ended, before the page is drawn anew.
        below: Draws what follows the progress, each time.
    """
    kind, key = state.kind, state.key

    def look() -> None:
        now = read_job(workspace(), kind, key)
        if now is None or not now.active:
            if ended is not None:
                ended()
            nav.refresh()
        if changed is not None and changed():
            nav.refresh()
        text = says(now.text or "Starting")
        if stop_requested(workspace(), kind, key):
            text = f"Stopping after this {part} · {text}"
        st.progress(now.fraction, text=plain(text))
        if below is not None:
            below()

    st.fragment(look, run_every=_POLL)()
    if part:
        st.button(
            "Stop",
            key=f"{kind} stop {key}",
            icon=":material/stop:",
            help=about,
            on_click=request_stop,
            args=(workspace(), kind, key),
        )


def needed_job(
    job: Job,
    failed: str,
    *,
    says: Callable[[str], str] = str,
    start: Callable[[], object] | None = None,
    dismiss: Callable[[], None] | None = None,
) -> None:
    """Start a job that the page needs, unless it failed, and draw how far it is.

    Args:
        job: The job.
        failed: The beginning of the sentence that says why it failed.
        says: As in `watch_job`.
        start: Starts the job, if that is not all that there is to do.
        dismiss: Makes the page need it no longer.
    """
    start = start or (lambda: start_job(workspace(), job))
    state = state_of(job)
    if state is not None and state.status is Status.FAILED:
        st.error(plain(f"{failed}: {state.text}"))
        with st.container(horizontal=True, key=f"{job.kind} failed {job.key}"):
            if st.button("Try again", key=f"{job.kind} again {job.key}"):
                start()
                st.rerun()
            if dismiss is not None:
                st.button("Dismiss", key=f"{job.kind} dismiss {job.key}", on_click=dismiss)
        return
    if state is None or not state.active:
        start()
        state = state_of(job)
    if state is not None:
        watch_job(state, says=says)


def say_why(state: JobState, more: str = "") -> None:
    """Say how a job ended that did not finish, and more."""
    sentence = f"{plain(state.text[:1].upper() + state.text[1:])}{more}"
    (st.info if state.status is Status.CANCELLED else st.error)(sentence)


def go_on_button(
    job: Job, *, about: str | None = None, started: Callable[[], object] | None = None
) -> None:
    """Draw the button with which a job that ended early goes on.

    Args:
        job: The job.
        about: Shown at the button.
        started: Called when the job is queued.
    """
    pressed = st.button(
        "Go on", key=f"{job.kind} go on {job.key}", icon=":material/play_arrow:", help=about
    )
    if not pressed:
        return
    try:
        start_job(workspace(), job)
    except GsrError as error:
        st.error(str(error))
    else:
        if started is not None:
            started()
        st.rerun()
