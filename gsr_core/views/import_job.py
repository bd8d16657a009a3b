"""Imports under way: how far they are, how they ended, and what can be done about it."""

from __future__ import annotations

import streamlit as st

from gsr_core.ingest.job import ImportJob
from gsr_core.jobs.queue import start_job
from gsr_core.jobs.state import forget_job, kept_job, list_jobs, read_job
from gsr_core.progress import Status
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain
from gsr_core.views.import_source import forget_source
from gsr_core.views.job_watch import go_on_button, say_why, watch_job
from gsr_core.views.session import bundle_names, workspace

__all__ = ["import_job", "import_jobs", "own_import", "start_import"]

_OWN = "import started"


def own_import() -> str | None:
    """Return the name of the import that this window started and that has not opened yet."""
    return st.session_state.get(_OWN)


def start_import(job: ImportJob) -> None:
    """Start an import and follow it in this window."""
    start_job(workspace(), job)
    st.session_state[_OWN] = job.key


def import_jobs() -> None:
    """Draw the imports that another window started, or this one before a reload."""
    for state in list_jobs(workspace(), ImportJob.kind):
        unseen = state.status in (Status.FAILED, Status.CANCELLED)
        if state.key != own_import() and (state.active or unseen):
            import_job(state.key)


def import_job(name: str) -> None:
    """Draw one import; open its bundle when it is done."""
    state = read_job(workspace(), ImportJob.kind, name)
    if state is None:
        return
    with st.container(border=True, key=f"import job {name}"):
        st.markdown(f"**Import of {plain(name)}**")
        if state.active:
            watch_job(state, part="batch")
        elif state.status is Status.FINISHED:
            _open(name)
        else:
            say_why(state)
            _ways_on(name)


def _open(name: str) -> None:
    """Show the new bundle, once, in the window that asked for it."""
    if own_import() != name or name not in bundle_names():
        return
    del st.session_state[_OWN]
    forget_source()
    nav.put(bundle=name, run=None, sample=None)
    st.rerun()


def _ways_on(name: str) -> None:
    """Let an import that ended early go on, or be forgotten."""
    job = kept_job(workspace(), ImportJob.kind, name)
    with st.container(horizontal=True):
        if job is not None:
            go_on_button(
                job,
                about="With the same settings; what is computed already is kept.",
                started=lambda: st.session_state.update({_OWN: name}),
            )
        if st.button("Dismiss", key=f"import dismiss {name}", type="tertiary"):
            forget_job(workspace(), ImportJob.kind, name)
            st.session_state.pop(_OWN, None)
            st.rerun()
