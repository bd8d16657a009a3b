"""What can be done with a run: its settings again, a name, an export, a report, an end."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import streamlit as st

from gsr_core.curation.tables import curated
from gsr_core.data.variation import make_variation
from gsr_core.errors import GsrError
from gsr_core.methods.registry import make_method
from gsr_core.runs.export import export_archive
from gsr_core.runs.job import RunJob
from gsr_core.runs.protocol import protocol_of
from gsr_core.runs.removal import delete_run
from gsr_core.runs.store import TITLE_LENGTH, Run
from gsr_core.runs.summary import run_label
from gsr_core.views.charts import plain, show_error, show_rows
from gsr_core.views.report_button import report_button

__all__ = ["run_actions", "run_settings"]


def run_actions(run: Run) -> None:
    """Draw the actions on a run.

    Args:
        run: Any run of the bundle.
    """
    state = run.state
    with st.container(horizontal=True, vertical_alignment="center", key="run actions"):
        st.button(
            "Use these settings",
            icon=":material/content_copy:",
            key=f"clone {run.run_id}",
            help="Fills the form with the method and the settings of this run.",
            on_click=_fill_form,
            args=(run,),
        )
        if state.step and not state.active:
            st.download_button(
                "Export",
                data=lambda: export_archive(run, tables=curated(run.workspace, run.bundle)),
                file_name=f"{run.run_id}.zip",
                mime="application/zip",
                on_click="ignore",
                icon=":material/download:",
                key=f"export {run.run_id}",
                help="Head, weights, predictions, metrics, flags and slices, class names, "
                "preprocessing, and a script that classifies with the head.",
            )
            _merge(run)
            if run.head_file.exists():
                report_button([run])
        with (
            st.popover("Rename", icon=":material/edit:", key=f"rename {run.run_id}"),
            st.form(f"rename form {run.run_id}", border=False),
        ):
            title = st.text_input(
                "Name of the run",
                value=run.title,
                max_chars=TITLE_LENGTH,
                placeholder=run_label(run),
            )
            if st.form_submit_button("Save", type="primary"):
                _do(lambda: run.rename(title))
        with st.popover("Delete", icon=":material/delete:", key=f"delete {run.run_id}"):
            st.write("This deletes the run with its head, weights and history, for good.")
            if st.button("Delete this run", type="primary", key=f"really delete {run.run_id}"):
                _do(lambda: delete_run(run))


def _merge(run: Run) -> None:
    """Draw the way from a head back into its network; it takes a while and can be refused."""
    with st.popover("Merge into network", icon=":material/merge:", key=f"merge {run.run_id}"):
        st.write(
            "Puts the head back into the network that gave the features, as the network's own "
            "library writes it, with scripts that open and run it without this one. It is run on "
            "some of the bundle's inputs first, and kept only if it gives the head's logits."
        )
        if st.button("Put the head into its network", key=f"really merge {run.run_id}"):
            # Here, not on top: pages need not load what opens networks.
            from gsr_core.runs.merge import merge_archive

            # One at a time: they are as large as their networks. The last goes with its session.
            if (before := st.session_state.pop("merged", None)) is not None:
                before[2].cleanup()
            folder = tempfile.TemporaryDirectory()
            file = Path(folder.name) / f"{run.run_id}-network.zip"
            try:
                with st.spinner("Opening the network, its inputs and what was written"):
                    merged = merge_archive(run, file)
            except GsrError as error:
                folder.cleanup()
                show_error(error)
            else:
                st.session_state["merged"] = (run.run_id, run.state.best_step, folder, file, merged)
        kept = st.session_state.get("merged")
        if kept is not None and kept[:2] == (run.run_id, run.state.best_step):
            *_, file, merged = kept
            st.success(plain(f"Opened by {merged.how}; {merged.check}."))
            st.download_button(
                "Download the network",
                data=file.read_bytes,
                file_name=file.name,
                mime="application/zip",
                on_click="ignore",
                type="primary",
                icon=":material/download:",
                key=f"merged {run.run_id}",
            )


def run_settings(run: Run) -> None:
    """Draw all that a run was made with, folded."""
    config = run.config
    defaults = make_method(config.method).settings()
    with st.expander("Settings of this run"):
        show_rows(
            {
                "setting": list(config.settings),
                "value": [str(value) for value in config.settings.values()],
                "default": [str(defaults.get(key, "")) for key in config.settings],
            },
            key=f"settings of {run.run_id}",
        )
        facts = make_variation(config.variation).phrases
        facts += [f"settings from the sweep {config.sweep}"] * bool(config.sweep)
        facts += [f"device {run.state.device or config.device}", f"id {run.run_id}"]
        facts += [f"made {config.created} with gsr-core {config.versions.get('gsr-core', '?')}"]
        st.caption(plain(" · ".join([protocol_of(run).text, *facts])))
        st.code(RunJob.of(config).command(run.workspace), language="bash", wrap_lines=True)


def _fill_form(run: Run) -> None:
    """Let the form begin with a run's settings."""
    config = run.config
    before: dict[str, Any] = st.session_state.get("run form", {"turn": 0})
    st.session_state["run form"] = {
        # New widgets, which begin with these values.
        "turn": before["turn"] + 1,
        "method": config.method,
        "settings": config.settings,
        "device": config.device,
        "seen_groups": make_variation(config.variation).seen_groups,
    }


def _do(change: Any) -> None:
    try:
        change()
    except GsrError as error:
        show_error(error)
    else:
        st.rerun()
