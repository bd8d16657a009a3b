"""The runs of a bundle: under way, waiting and ended."""

from __future__ import annotations

import streamlit as st

from gsr_core.errors import GsrError
from gsr_core.figures.training import live_worst_group
from gsr_core.methods.history import SEEN_VAL
from gsr_core.progress import Status
from gsr_core.runs.execute import continue_run
from gsr_core.runs.job import ensure_run_worker, submit
from gsr_core.runs.record import RunState
from gsr_core.runs.store import Run
from gsr_core.runs.summary import headline, overall, run_label, unsolved_steps
from gsr_core.views import navigation as nav
from gsr_core.views.charts import badge, percent, plain, show, show_cautions, show_error, show_rows
from gsr_core.views.frame import Frame, link
from gsr_core.views.loading import load_cautions, load_history
from gsr_core.views.run_actions import run_actions, run_settings
from gsr_core.views.session import is_active

__all__ = ["job_panel"]

_LABEL = 220
"""Pixels of a run's label in the table, so that its numbers have room beside it."""
_POLL = 0.5
"""Seconds between two looks at a run that computes."""


def job_panel(page: Frame) -> None:
    """Draw the run under way, live, one run in full, then the table of all runs of the bundle."""
    active = [run for run in reversed(page.runs) if is_active(run)]
    if active:
        st.fragment(_live, run_every=_POLL)(active)
    if page.runs:
        labels = {run.run_id: run_label(run) for run in page.runs}
        chosen = nav.select(
            "shown",
            "Show a run",
            ["", *labels] if active else list(labels),
            format_func=lambda run_id: labels.get(run_id, "only those under way"),
        )
        if chosen:
            _in_full(next(run for run in page.runs if run.run_id == chosen))
    _table(page.runs)


def _live(active: list[Run]) -> None:
    """Draw the active runs anew twice a second; redraw the page when one ends."""
    if not all(is_active(run) for run in active):
        nav.refresh()
    states = [run.state for run in active]
    place = next((i for i, each in enumerate(states) if each.status is Status.RUNNING), 0)
    run, state = active[place], states[place]
    st.subheader(plain(run_label(run)), anchor=False)
    if state.status is Status.QUEUED:
        ensure_run_worker(run)
        st.progress(0.0, text="Waiting for the worker")
    else:
        rest = (state.steps - state.step) * state.seconds / max(state.step, 1)
        st.progress(
            state.step / state.steps,
            text=f"step {state.step} of {state.steps} on {state.device or run.config.device}, "
            f"{rest:.0f} s left, best step so far {state.best_step}",
        )
        if state.doing:
            st.caption(plain(state.doing))
    if state.step:
        show(
            live_worst_group(load_history(run), state.steps, selected=state.best_step),
            key="live",
            alt="Worst-group accuracy on target and val over the steps so far.",
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Cancel", key=f"cancel {run.run_id}", icon=":material/stop:"):
            run.request_cancel()
            st.toast("The run will stop after its current step.")
        for other in active:
            if other.run_id != run.run_id:
                badge(f"waiting: {run_label(other)}", colour="gray")
                st.button(
                    "Cancel",
                    key=f"cancel {other.run_id}",
                    type="tertiary",
                    on_click=other.request_cancel,
                )


def _in_full(run: Run) -> None:
    """Draw how a run ended, its scores, and where to go from there."""
    state = run.state
    st.subheader(f"{plain(run_label(run))}: {state.status}", anchor=False)
    if state.status is Status.FAILED:
        show_error(state.message)
        if log := run.log_text():
            with st.expander("Log"):
                st.code(log, language=None)
    if state.step:
        scores = headline(run, history=load_history(run))
        with st.container(horizontal=True):
            st.metric("Worst group, test", percent(scores["worst_group_accuracy"]), border=True)
            st.metric("Mean, test", percent(scores["mean_accuracy"]), border=True)
            st.metric("Kept step", f"{state.best_step} of {state.step}", border=True)
            st.metric("Time", f"{state.seconds:.1f} s", border=True)
        of_val = overall(load_history(run), SEEN_VAL, state.best_step)
        if of_val:
            by_own = overall(load_history(run), "val", state.best_step)["worst_group_accuracy"]
            st.caption(
                "Worst group of val: "
                f"**{percent(of_val['worst_group_accuracy'])}** by the groups that the method saw, "
                f"which chose the step, and **{percent(by_own)}** by those of the bundle."
            )
        if unsolved := unsolved_steps(load_history(run)):
            st.warning(
                f"{unsolved} of {state.step} steps did not reach their tolerance (a relative "
                "gradient norm of 1e-8, influences to 1e-10) and are approximate; a larger l2 "
                "helps."
            )
        if not state.active:
            show_cautions(load_cautions(run))
        if state.step > 1:
            show(
                live_worst_group(load_history(run), max(state.steps, state.step)),
                key="latest",
                alt="Worst-group accuracy on target and val over the steps.",
            )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            link("Weights", "See the weights", run=run.run_id)
            link("Samples", "See the samples", run=run.run_id, sort="heaviest")
            link("Compare", "Compare")
            config = run.config
            edited = bool(config.variation.get("edits"))
            if "steps" in config.settings and not edited and not state.active:
                _continue(run, state)
    run_actions(run)
    run_settings(run)


def _continue(run: Run, state: RunState) -> None:
    # What was planned, if it ended early.
    further = state.steps if state.step < state.steps else state.step + max(state.step, 5)
    with st.popover("Continue to more steps"):
        steps = st.number_input(
            "Steps in all", state.step + 1, 100_000, further, key=f"steps {run.run_id}"
        )
        if st.button("Continue", key=f"continue {run.run_id}"):
            try:
                continue_run(run, int(steps))
                submit(run)
            except GsrError as error:
                show_error(error)
            else:
                st.rerun()


def _table(runs: list[Run]) -> None:
    """Draw a table with one row for each run."""
    st.subheader("All runs on this bundle", anchor=False)
    if not runs:
        st.caption("None yet.")
        return
    rows = []
    for run in runs:
        state, scores = run.state, headline(run, history=load_history(run))
        rows.append(
            {
                "run": run_label(run),
                "status": str(state.status),
                "worst group, test": scores["worst_group_accuracy"],
                "mean, test": scores["mean_accuracy"],
                "kept step": state.best_step or None,
                "steps": state.step,
                "seconds": state.seconds,
                "id": run.run_id,
            }
        )
    shares = st.column_config.NumberColumn(format="percent")
    show_rows(
        rows,
        column_config={
            "run": st.column_config.Column(
                width=_LABEL, pinned=True, help="A double click shows a long one whole."
            ),
            "worst group, test": shares,
            "mean, test": shares,
            "seconds": st.column_config.NumberColumn(format="%.1f"),
        },
    )
