"""The first data: the example in one click, or files of one's own."""

from __future__ import annotations

import streamlit as st

from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.example_job import ExampleJob
from gsr_core.jobs.queue import start_job
from gsr_core.progress import Status
from gsr_core.runs.removal import delete_bundle, runs_on
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show_error
from gsr_core.views.import_form import import_form
from gsr_core.views.job_watch import state_of, watch_job
from gsr_core.views.session import bundle_names, workspace

__all__ = ["add_data", "bring_data", "remove_data"]

_EXAMPLE = ExampleJob()


def bring_data() -> None:
    """Draw the example and the import form."""
    with st.container(border=True, key="intake example"):
        st.subheader("Try it: Coloured digits", anchor=False)
        left, right = st.columns([4, 1], vertical_alignment="center", gap="large")
        left.write(
            "Real handwritten digits whose colour misleads: a small network, trained here in about "
            "half a minute, learns the colour and fails where colour and digit disagree."
        )
        with right:
            _example()
    with st.container(border=True, key="intake own"):
        st.subheader("Your own data", anchor=False)
        import_form()


def add_data() -> None:
    """Draw the same two below a bundle, folded."""
    opened = any(key in st.session_state for key in ("import seen", "import started"))
    with st.expander("Add another data set", expanded=opened, key="add data"):
        if _EXAMPLE.name not in bundle_names():
            _example(aside=True)
        import_form()


def remove_data(bundle: Bundle) -> None:
    """Draw the button that deletes a bundle, which asks once more."""
    runs = len(runs_on(workspace(), bundle.name))
    with st.popover("Delete this bundle", icon=":material/delete:", key="delete bundle"):
        st.write(
            f"This deletes bundle **{plain(bundle.name)}** and the "
            f"**{runs:,} run{'s' * (runs != 1)}** on it, for good. Files that it was imported from "
            "stay, and so do slices and flags."
        )
        if st.button("Delete it", type="primary", key="really delete bundle"):
            try:
                delete_bundle(workspace(), bundle.name)
            except GsrError as error:
                show_error(error)
            else:
                nav.put(bundle=None, run=None, runs=None, sample=None)
                st.rerun()


def _example(*, aside: bool = False) -> None:
    state = state_of(_EXAMPLE)
    if _EXAMPLE.name in bundle_names():
        if st.button("Open the example", key="open example"):
            nav.put(bundle=_EXAMPLE.name, run=None, sample=None)
            st.rerun()
        return
    if state is not None and state.active:
        watch_job(
            state,
            ended=lambda: nav.put(
                bundle=_EXAMPLE.name if _EXAMPLE.name in bundle_names() else None
            ),
        )
        return
    if state is not None and state.status is Status.FAILED:
        show_error(f"The example could not be prepared. {state.text}")
    if st.button(
        "Prepare the example", type="secondary" if aside else "primary", key="prepare example"
    ):
        start_job(workspace(), _EXAMPLE)
        st.rerun()
