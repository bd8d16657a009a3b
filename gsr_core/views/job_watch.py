"""The progress of a background job, and the buttons for it, the same on every page."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from gsr_core.errors import GsrError
from gsr_core.jobs.base import Job
from gsr_core.jobs.queue import start_job
from gsr_core.jobs.state import JobState, read_job, request_stop, stop_requested
from gsr_core.progress import Status
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, sentence, show_error
from gsr_core.views.session import workspace

__all__ = ["go_on_button", "needed_job", "say_why", "state_of", "watch_job"]

_POLL = 0.5
"""Seconds between two looks at a job under way."""


def state_of(job: Job) -> JobState | None:
    """Return the state of a job; None if it was never started."""
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
    """Draw the progress of a job until it ends; then draw the page again.

    Args:
        state: State of a job under way.
        says: Makes the text to show of the job's own text.
        part: What the job finishes before it stops, such as `step`; "" draws no button to stop it.
        about: Help of that button.
        changed: Whether the page is out of date; then it is drawn again too.
        ended: Called when the job has ended, before the page is drawn again.
        below: Draws what is below the progress, each time.
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
    """Start a job that the page needs, unless it failed, and draw its progress.

    Args:
        job: The job.
        failed: Beginning of the message if it failed.
        says: As in `watch_job`.
        start: Starts the job; None only queues it.
        dismiss: Called when the user no longer wants the job.
    """
    start = start or (lambda: start_job(workspace(), job))
    state = state_of(job)
    if state is not None and state.status is Status.FAILED:
        show_error(f"{failed}: {state.text}")
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
    """Say why a job ended early, and more."""
    if state.status is Status.CANCELLED:
        st.info(sentence(state.text + more))
    else:
        show_error(state.text + more)


def go_on_button(
    job: Job, *, about: str | None = None, started: Callable[[], object] | None = None
) -> None:
    """Draw the button that continues a job that ended early.

    Args:
        job: The job.
        about: Help of the button.
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
        show_error(error)
    else:
        if started is not None:
            started()
        st.rerun()
