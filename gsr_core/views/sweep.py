"""The Sweep page: what to search, the progress of a sweep, and its results."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from gsr_core.comparing.scores import spread
from gsr_core.experiments.search import Sampler
from gsr_core.experiments.sweep import Sweep, SweepRecord, list_sweeps
from gsr_core.experiments.sweep_job import SweepJob
from gsr_core.experiments.sweep_loop import best_trial
from gsr_core.figures.sweep import best_so_far, parallel_settings
from gsr_core.methods.base import Range
from gsr_core.methods.registry import METHODS
from gsr_core.names import method_label
from gsr_core.progress import Status
from gsr_core.runs.summary import headline
from gsr_core.views import navigation as nav
from gsr_core.views.charts import percent, plain, show, show_rows
from gsr_core.views.estimate import estimate, show_time_left
from gsr_core.views.frame import Frame, link
from gsr_core.views.job_watch import go_on_button, say_why, state_of, watch_job
from gsr_core.views.loading import load_history
from gsr_core.views.method_form import setting_field
from gsr_core.views.missing import is_missing, say_missing
from gsr_core.views.session import workspace

__all__ = ["sweep_form", "sweep_panel"]

_POLL = 1.0
"""Seconds between two looks at a sweep under way in a terminal."""

_SAMPLERS: dict[Sampler, str] = {"tpe": "near good trials (TPE)", "random": "at random"}


# The form ------------------------------------------------------------------------------


def sweep_form(page: Frame, devices: list[str]) -> SweepJob:
    """Draw the form and return the sweep of a bundle that it describes."""
    names = [name for name, each in METHODS.items() if each.search]
    name = st.selectbox(
        "Method",
        names,
        format_func=lambda key: METHODS[key].title,
        key="sweep method",
        persist_state="session",
    )
    method = METHODS[name]
    st.caption(method.summary)
    defaults = method().settings()
    held = st.multiselect(
        "Hold fixed",
        [key for key in defaults if key != "seed"],
        key=f"sweep hold {name}",
        persist_state="session",
        format_func=lambda key: key.replace("_", " "),
        placeholder="nothing",
        help="Settings with one value in all trials. Other settings have their defaults, except "
        "those that are searched.",
    )
    fixed = {key: setting_field(name, key, form="sweep") for key in held}
    searched = {key: where for key, where in method.search.items() if key not in fixed}
    show_rows(
        [
            {
                "searched": key.replace("_", " "),
                "where": where_text(where),
                "default": str(defaults[key]),
            }
            for key, where in searched.items()
        ],
    )
    left, right = st.columns(2)
    with left:
        trials = st.number_input(
            "Trials", 1, 10_000, 30, key="sweep trials", persist_state="session"
        )
        seeds = st.number_input(
            "Seeds of the winner",
            1,
            20,
            5,
            key="sweep seeds",
            persist_state="session",
            help="One ordinary run for each seed.",
        )
        device = st.selectbox("Device", devices, key="sweep device", persist_state="session")
    with right:
        jobs = st.number_input(
            "At a time",
            1,
            64,
            1,
            key="sweep jobs",
            persist_state="session",
            help="Trials at a time, each in a process.",
        )
        seed = st.number_input(
            "Seed of the draws",
            0,
            10_000,
            0,
            key="sweep seed",
            persist_state="session",
            help="Decides which settings are tried.",
        )
        sampler = st.selectbox(
            "Look",
            list(_SAMPLERS),
            key="sweep sampler",
            persist_state="session",
            format_func=lambda key: _SAMPLERS[key],
            help="Near good trials: Optuna's tree-structured Parzen estimator, after ten random "
            "trials.",
        )
    st.write(
        f"**{trials:,} trials**, scored on val, **+ {seeds:,} runs** of the winner, the first to "
        "look at test."
    )
    # A trial is a fit in memory and takes what a run takes.
    st.caption(
        estimate(
            page.runs,
            [(name, fixed, -(-int(trials) // int(jobs)) + int(seeds))],
        )
    )
    return SweepJob(
        bundle=page.bundle.name,
        method=name,
        fixed=fixed,
        trials=int(trials),
        sampler=sampler,
        seed=int(seed),
        seeds=int(seeds),
        jobs=int(jobs),
        device=str(device),
    )


def where_text(where: Range | tuple[Any, ...]) -> str:
    """Return the range of a setting in words."""
    if isinstance(where, Range):
        return f"{where.low:g} to {where.high:g}" + ", equal ratios" * where.log
    return ", ".join(str(choice) for choice in where)


# Progress ------------------------------------------------------------------------------


def sweep_panel(page: Frame, jobs: int) -> None:
    """Draw the chosen sweep of the bundle: under way, stopped, failed or finished.

    Args:
        page: Bundle and runs of the page.
        jobs: Trials at a time, if the sweep goes on.
    """
    digest = page.bundle.manifest.digest
    sweeps = {sweep.name: sweep for sweep in list_sweeps(workspace())}
    records = {name: sweep.record for name, sweep in sweeps.items()}
    here = [name for name in sweeps if records[name].bundle_digest == digest]
    earlier = [
        name
        for name in sweeps
        if records[name].bundle == page.bundle.name and records[name].bundle_digest != digest
    ]
    if earlier:
        st.caption(
            f"{len(earlier):,} sweeps were made before this bundle was written anew and are not "
            "shown: their trials are of other data."
        )
    if not here:
        st.info("No sweep on this bundle yet. Choose a method and start one.")
        return
    chosen = nav.select("sweep", "Sweep", here, format_func=lambda name: _label(records[name]))
    if is_missing("sweep", here):
        say_missing(
            "sweep",
            f"There is no sweep **{plain(nav.get('sweep'))}** on bundle {plain(page.bundle.name)} "
            "as it is now. Another is shown.",
        )
    else:
        nav.put(sweep=chosen)
    sweep, record = sweeps[chosen], records[chosen]
    job = SweepJob.of(sweep, jobs)
    state = state_of(job)
    if state is not None and state.active:
        about = "Finished trials are kept, and the sweep can go on."
        watch_job(state, part="step", about=about, below=lambda: _live(sweep, record, jobs))
        return
    if sweep.active:
        st.fragment(_watch_terminal, run_every=_POLL)(sweep, record)
        return
    if not record.finished:
        if state is not None and state.status is Status.FAILED:
            say_why(state)
        else:
            done = sum(trial.outcome is not None for trial in sweep.trials())
            st.info(f"Stopped after {done:,} of {record.trials:,} trials, which are kept.")
        go_on_button(job)
    _results(page, sweep, record)


def _label(record: SweepRecord) -> str:
    fixed = [f"{key} {value}" for key, value in record.fixed.items()]
    return " · ".join([method_label(record.method), *fixed, f"{record.trials} trials", record.name])


def _watch_terminal(sweep: Sweep, record: SweepRecord) -> None:
    """Draw a sweep that no job of the dashboard computes; the page anew once it has ended."""
    if not sweep.active:
        nav.refresh()
    done = sum(trial.outcome is not None for trial in sweep.trials())
    share = done / (record.trials + record.seeds)
    st.progress(share, text=f"Under way in a terminal: trial {done} of {record.trials}")
    _live(sweep, record)


def _live(sweep: Sweep, record: SweepRecord, jobs: int = 1) -> None:
    """Draw the scores so far."""
    table = _table(sweep, record)
    ended = [trial.outcome.seconds for trial in sweep.trials() if trial.outcome is not None]
    missing = record.trials - len(ended) + record.seeds
    show_time_left(ended, missing, jobs)
    figure = best_so_far(
        table[table["status"] != "computing"], record.trials, score_name=record.score_name
    )
    show(figure, key="sweep live", alt="Score of each trial so far, and the best of them.")


# Results -------------------------------------------------------------------------------


def _table(sweep: Sweep, record: SweepRecord) -> pd.DataFrame:
    """Return one row a trial: trial, status, score, loss, step, seconds, text and the settings."""
    rows = []
    for trial in sweep.trials():
        outcome = trial.outcome
        settings = ", ".join(f"{key} {value}" for key, value in trial.settings.items())
        failed = outcome is not None and outcome.score is None
        scored = outcome is not None and outcome.score is not None
        says = f"failed: {outcome.message}" if outcome is not None and failed else ""
        if outcome is not None and scored:
            says = percent(outcome.score)
        rows.append(
            {
                **trial.settings,
                "trial": trial.place + 1,
                "status": "failed" if failed else "finished" if scored else "computing",
                "score": outcome.score if outcome else None,
                "loss": outcome.loss if outcome else None,
                "step": (outcome.step or None) if outcome else None,
                "seconds": outcome.seconds if outcome else None,
                "message": outcome.message if outcome else "",
                "text": f"trial {trial.place + 1}: {says}<br>{settings}",
            }
        )
    columns = ["trial", "status", "score", "loss", "step", "seconds", "message", "text"]
    table = pd.DataFrame(rows, columns=[*record.space, *columns])
    return table.astype({"score": float, "loss": float, "seconds": float})


def _results(page: Frame, sweep: Sweep, record: SweepRecord) -> None:
    """Draw the winner, the trials, and how the score depends on the settings."""
    table = _table(sweep, record)
    if table.empty:
        return
    best = best_trial(record, sweep.trials())
    if record.winner is not None:
        _winner(page, sweep, record, table)
    st.subheader("Best so far", anchor=False)
    figure = best_so_far(
        table,
        record.trials,
        score_name=record.score_name,
        winner=None if best is None else best.place + 1,
    )
    show(figure, key="sweep best", alt="Score of each trial, and the best up to each.")
    st.subheader("Settings and score", anchor=False)
    ranges = {key: where for key, where in record.space.items() if isinstance(where, Range)}
    figure = parallel_settings(
        table,
        list(record.space),
        log=[key for key, where in ranges.items() if where.log],
        choices={key: where for key, where in record.space.items() if isinstance(where, tuple)},
    )
    show(
        figure, key="sweep settings", alt="One line for each trial, from its settings to its score."
    )
    st.caption(
        f"Each line is a trial, from its settings to its score, the {record.score_name}; bright "
        "lines did best. Drag along an axis to filter trials, double-click it to show all."
    )
    with st.expander(f"All {len(table):,} trials"):
        columns = ["trial", *record.space, "score", "loss", "step", "seconds", "status", "message"]
        show_rows(
            table[columns].sort_values("score", ascending=False),
            column_config={
                "score": st.column_config.NumberColumn(record.score_name, format="percent"),
                "loss": st.column_config.NumberColumn(format="%.3f", help="Breaks ties, nats."),
                "step": st.column_config.NumberColumn("kept step"),
                "seconds": st.column_config.NumberColumn(format="%.1f"),
            },
        )


def _winner(page: Frame, sweep: Sweep, record: SweepRecord, table: pd.DataFrame) -> None:
    winner, runs = record.winner, sweep.runs()
    assert winner is not None
    settings = " · ".join(f"{key} {value}" for key, value in winner.settings.items())
    st.subheader(f"Winner: {plain(settings)}", anchor=False)
    scores = [headline(run, history=load_history(run))["worst_group_accuracy"] for run in runs]
    first = table.loc[table["trial"] == 1].iloc[0]
    defaults = METHODS[record.method]().settings() | record.fixed
    with st.container(horizontal=True):
        change = None
        if all(first[key] == defaults[key] for key in record.space) and winner.place:
            points = 100 * (winner.score - first["score"])
            change = f"{points:+.1f} points against the defaults"
        st.metric(
            f"{record.score_name[:1].upper()}{record.score_name[1:]}",
            percent(winner.score),
            change,
            border=True,
        )
        if scores:
            statistics = spread(scores, None)
            text = percent(statistics["mean"])
            if len(scores) > 1:
                text += f" ± {100 * statistics['sd']:.1f}"
            label = f"Worst group, test, {len(scores)} seed{'s' * (len(scores) > 1)}"
            st.metric(label, text, border=True)
        st.metric("Trial", f"{winner.place + 1} of {record.trials}", border=True)
    st.caption(
        "The score on val flatters, because the trial was chosen by it; test, which chose nothing, "
        "is what counts."
    )
    if not runs:
        return
    show_rows(
        [
            {"seed": run.config.seed, **headline(run, history=load_history(run)), "run": run.run_id}
            for run in runs
        ],
        column_config={
            "worst_group_accuracy": st.column_config.NumberColumn(
                "worst group, test", format="percent"
            ),
            "mean_accuracy": st.column_config.NumberColumn("mean, test", format="percent"),
            "adjusted_accuracy": st.column_config.NumberColumn("adjusted, test", format="percent"),
        },
    )
    baseline = [run.run_id for run in page.ended if run.config.is_erm][:1]
    compared = ",".join([*baseline, runs[0].run_id])
    with st.container(horizontal=True):
        link("Compare", "Compare", runs=compared)
        link("Weights", "See the weights", run=runs[0].run_id)
