"""From files to a bundle, step by step: look, correct, choose a network, import."""

from __future__ import annotations

from typing import Any

import streamlit as st

from gsr_core.data.bundle_writing import bundle_directory
from gsr_core.data.source import Roles
from gsr_core.errors import GsrError
from gsr_core.ingest.job import ImportJob
from gsr_core.ingest.plan import corrections, make_plan
from gsr_core.views.bundle_contents import group_table, small_groups
from gsr_core.views.charts import plain, show_error
from gsr_core.views.import_columns import choose_columns, choose_groups, propose_merges
from gsr_core.views.import_job import import_job, own_import, start_import
from gsr_core.views.import_network import (
    NeedsTrust,
    choose_extraction,
    choose_network,
    choose_training,
)
from gsr_core.views.import_sight import network_sight
from gsr_core.views.import_source import FAILURES, Reading, choose_source, first_rows, look
from gsr_core.views.job_watch import state_of
from gsr_core.views.session import bundle_names, workspace

__all__ = ["import_form"]


@st.fragment
def import_form() -> None:
    """Draw the steps; each appears when the one before it is settled."""
    reading = choose_source()
    if reading is not None:
        _steps(reading)
    if (name := own_import()) is not None:
        import_job(name)


def _steps(reading: Reading) -> None:
    roles = _columns(reading)
    if roles.label is None:
        st.info("To go on, choose the column of the class.")
        return
    changes = corrections(reading.source.roles, roles)
    try:
        plan = make_plan(
            name="preview", reader=reading.reader, settings=reading.settings, roles=changes
        )
        preview = look(reading, plan)
    except FAILURES as error:
        show_error(error)
        return
    _sizes(reading, roles, preview)
    if preview["refusal"]:
        return
    values: dict[str, Any] = {}
    if preview["modality"] != "numbers":
        st.subheader("The network", anchor=False, divider="gray")
        try:
            values["backbone"] = choose_network(preview["modality"])
        except NeedsTrust:
            st.info(
                "This network runs code of its own. Tick “I trust this file” if you know where it "
                "comes from."
            )
            return
        if values["backbone"] is not None and preview["modality"] == "image":
            network_sight(reading, values["backbone"])
        values["training"] = choose_training()
        with st.expander("How features are computed"):
            values["extraction"] = choose_extraction()
        if values["backbone"] is None:
            st.info("To go on, name the network.")
            return
    _finish(reading, changes, values)


def _columns(reading: Reading) -> Roles:
    if reading.source.membership is not None:
        with st.expander("The first rows"):
            first_rows(reading)
        st.caption("The file itself defines the classes, groups and splits.")
        return reading.source.roles
    st.subheader("The columns", anchor=False, divider="gray")
    roles = choose_columns(reading)
    first_rows(reading)
    st.subheader("The groups", anchor=False, divider="gray")
    return roles.model_copy(update={"groups": choose_groups(reading, roles)})


def _sizes(reading: Reading, roles: Roles, preview: dict[str, Any]) -> None:
    """Draw the groups with their sizes, warnings and notes, and merges of small groups."""
    for warning in preview["warnings"]:
        st.warning(plain(warning), icon=":material/warning:")
    group_table(preview["groups"], preview["splits"], key="import sizes")
    if preview["refusal"]:
        show_error(preview["refusal"])
    elif warning := small_groups(preview["groups"], preview["splits"]):
        st.warning(warning, icon=":material/warning:")
    if reading.source.membership is None:
        propose_merges(reading, roles.groups, preview["proposed_merges"])
    if preview["notes"]:
        with st.expander(f"Notes on these data ({len(preview['notes'])})"):
            for note in preview["notes"]:
                st.caption(f"• {plain(note)}")


def _finish(reading: Reading, changes: dict[str, Any], values: dict[str, Any]) -> None:
    """Draw the name, the button that starts the import, and the command."""
    st.subheader("The bundle", anchor=False, divider="gray")
    left, right = st.columns([2, 3])
    with left:
        name = st.text_input(
            "Name of the bundle",
            value=reading.name,
            key=f"import {reading.key} {reading.number} name",
            persist_state="session",
        ).strip()
    with right:
        title = st.text_input(
            "Title",
            placeholder=reading.source.title or name,
            key=f"import {reading.key} title",
            persist_state="session",
        ).strip()
    overwrite = name in bundle_names() and st.checkbox(
        f"Replace the bundle {plain(name)}", key=f"import {reading.key} overwrite"
    )
    try:
        plan = make_plan(
            name=name,
            title=title,
            reader=reading.reader,
            settings=reading.settings,
            roles=changes,
            **values,
        )
    except GsrError as error:
        show_error(error)
        return
    job = ImportJob(plan=plan, overwrite=overwrite)
    _start(job)
    st.caption("The same from a terminal:")
    st.code(job.command(workspace()), language="bash", wrap_lines=True)


def _start(job: ImportJob) -> None:
    state = state_of(job)
    busy = state is not None and state.active
    if not st.button(
        "Import",
        type="primary",
        key="import start",
        icon=":material/play_arrow:",
        disabled=busy,
        help="This import is under way." if busy else None,
    ):
        return
    try:
        bundle_directory(workspace(), job.plan.name, overwrite=job.overwrite)
        start_import(job)
    except (GsrError, OSError) as error:
        show_error(str(error).replace("with --overwrite", "by ticking the box above"))
    else:
        st.rerun(scope="fragment")
