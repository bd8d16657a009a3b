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
from gsr_core.views.import_columns import choose_columns, choose_groups, propose_merges
from gsr_core.views.import_job import import_job, own_import, start_import
from gsr_core.views.import_network import (
    NeedsTrust,
    choose_extraction,
    choose_network,
    choose_training,
)
from gsr_core.views.import_source import FAILURES, Found, choose_source, first_rows, look, sentence
from gsr_core.views.job_watch import state_of
from gsr_core.views.session import bundle_names, workspace

__all__ = ["import_form"]


@st.fragment
def import_form() -> None:
    """Draw the steps; each appears when the one before it is settled."""
    found = choose_source()
    if found is not None:
        _steps(found)
    if (name := own_import()) is not None:
        import_job(name)


def _steps(found: Found) -> None:
    roles = _columns(found)
    if roles.label is None:
        st.info("Choose the column of the class to go on.")
        return
    changes = corrections(found.source.roles, roles)
    try:
        plan = make_plan(
            name="preview", reader=found.reader, settings=found.settings, roles=changes
        )
        seen = look(found, plan)
    except FAILURES as error:
        st.error(sentence(error))
        return
    _sizes(found, roles, seen)
    values: dict[str, Any] = {}
    if seen["modality"] != "numbers":
        st.subheader("The network", anchor=False, divider="gray")
        try:
            values["backbone"] = choose_network(seen["modality"])
        except NeedsTrust:
            st.info(
                "This network runs code of its own. Tick “I trust this file” if you know where it "
                "comes from."
            )
            return
        values["training"] = choose_training()
        with st.expander("How features are computed"):
            values["extraction"] = choose_extraction()
        if values["backbone"] is None:
            st.info("Name the network to go on.")
            return
    _finish(found, changes, values)


def _columns(found: Found) -> Roles:
    if found.source.membership is not None:
        with st.expander("The first rows"):
            first_rows(found)
        st.caption("The file says itself what classes, groups and splits there are.")
        return found.source.roles
    st.subheader("The columns", anchor=False, divider="gray")
    roles = choose_columns(found)
    first_rows(found)
    st.subheader("The groups", anchor=False, divider="gray")
    return roles.model_copy(update={"groups": choose_groups(found, roles)})


def _sizes(found: Found, roles: Roles, seen: dict[str, Any]) -> None:
    """Draw who belongs to each group and how many do, and what is wrong with that."""
    group_table(seen["groups"], seen["splits"], key="import sizes")
    if warning := small_groups(seen["groups"], seen["splits"]):
        st.warning(warning, icon=":material/warning:")
    if found.source.membership is None:
        propose_merges(found, roles.groups, seen["proposed_merges"])
    if seen["notes"]:
        with st.expander(f"What to know about these data ({len(seen['notes'])})"):
            for note in seen["notes"]:
                st.caption(f"• {note}")


def _finish(found: Found, changes: dict[str, Any], values: dict[str, Any]) -> None:
    """Draw the name, the command and the start."""
    st.subheader("The bundle", anchor=False, divider="gray")
    left, right = st.columns([2, 3])
    with left:
        name = st.text_input(
            "Name of the bundle",
            value=found.name,
            key=f"import {found.key} {found.number} name",
            persist_state="session",
        ).strip()
    with right:
        title = st.text_input(
            "Name for people",
            placeholder=found.source.title or name,
            key=f"import {found.key} title",
            persist_state="session",
        ).strip()
    overwrite = name in bundle_names() and st.checkbox(
        f"Replace the bundle {name}", key=f"import {found.key} overwrite"
    )
    try:
        plan = make_plan(
            name=name,
            title=title,
            reader=found.reader,
            settings=found.settings,
            roles=changes,
            **values,
        )
    except GsrError as error:
        st.error(sentence(error))
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
        st.error(sentence(error).replace("with --overwrite", "by ticking the box above"))
    else:
        st.rerun(scope="fragment")
