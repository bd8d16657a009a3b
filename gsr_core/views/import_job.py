"""Imports under way: their progress, how they ended, and how to go on."""

from __future__ import annotations

import streamlit as st

from gsr_core.errors import GsrError
from gsr_core.jobs.queue import start_job
from gsr_core.jobs.state import (
    JobState,
    forget_job,
    job_arguments,
    list_jobs,
    read_job,
    request_stop,
    stop_requested,
)
from gsr_core.progress import Status
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, sentence, show_error
from gsr_core.views.import_source import forget_source
from gsr_core.views.session import bundle_names, workspace

__all__ = ["import_job", "import_jobs", "own_import", "start_import"]

_POLL = 0.5
"""Seconds between two looks at an import under way."""
_OWN = "import started"


def own_import() -> str | None:
    """Return the name of the import that this window started and whose bundle is not open yet."""
    return st.session_state.get(_OWN)


def start_import(name: str, arguments: dict[str, object]) -> None:
    """Start or continue an import, and follow it in this window."""
    start_job(workspace(), "import", name, arguments)
    st.session_state[_OWN] = name


def import_jobs() -> None:
    """Draw the imports that another window started, or this one before a reload."""
    for state in list_jobs(workspace(), "import"):
        unseen = state.status in (Status.FAILED, Status.CANCELLED)
        if state.key != own_import() and (state.active or unseen):
            import_job(state.key)


def import_job(name: str) -> None:
    """Draw one import; open its bundle when it is done."""
    state = read_job(workspace(), "import", name)
    if state is None:
        return
    with st.container(border=True, key=f"import job {name}"):
        st.markdown(f"**Import of {plain(name)}**")
        if state.active:
            st.fragment(_watch, run_every=_POLL)(name)
            st.button(
                "Stop",
                key=f"import stop {name}",
                icon=":material/stop:",
                on_click=request_stop,
                args=(workspace(), "import", name),
            )
        elif state.status is Status.FINISHED:
            _open(name)
        else:
            _ended(state)


def _watch(name: str) -> None:
    now = read_job(workspace(), "import", name)
    if now is None or not now.active:
        nav.refresh()
    text = now.text
    if stop_requested(workspace(), "import", name):
        text = f"Stopping after this batch · {text}"
    st.progress(now.fraction, text=plain(text or "Starting"))


def _open(name: str) -> None:
    """Show the new bundle, once, in the window that started the import."""
    if own_import() != name or name not in bundle_names():
        return
    del st.session_state[_OWN]
    forget_source()
    nav.put(bundle=name, run=None, sample=None)
    st.rerun()


def _ended(state: JobState) -> None:
    """Say why an import ended, and offer to go on."""
    if state.status is Status.CANCELLED:
        st.info(sentence(state.text))
    else:
        show_error(state.text)
    arguments = job_arguments(workspace(), "import", state.key)
    with st.container(horizontal=True):
        if arguments is not None and st.button(
            "Go on",
            key=f"import go on {state.key}",
            icon=":material/play_arrow:",
            help="With the same settings; finished parts are not computed again.",
        ):
            try:
                start_import(state.key, arguments)
            except GsrError as error:
                show_error(error)
            else:
                st.rerun()
        if st.button("Dismiss", key=f"import dismiss {state.key}", type="tertiary"):
            forget_job(workspace(), "import", state.key)
            st.session_state.pop(_OWN, None)
            st.rerun()
