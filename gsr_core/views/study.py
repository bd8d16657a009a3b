"""The Study page: what to vary, the progress of a study, and its results."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError, SettingError
from gsr_core.experiments.strength import names_of_levels
from gsr_core.experiments.study import KINDS, LEVELS, Kind, Study, list_studies, make_study
from gsr_core.experiments.study_outcomes import (
    flipped_weights,
    outcomes,
    summarise_flipped,
    summarise_outcomes,
)
from gsr_core.figures.study import accuracy_over_levels, flipped_and_clean, val_against_test
from gsr_core.jobs.queue import start_job
from gsr_core.jobs.state import JobState, read_job, request_stop, stop_requested
from gsr_core.methods.registry import METHODS
from gsr_core.progress import Status
from gsr_core.views import navigation as nav
from gsr_core.views.charts import colours_of, plain, sentence, show, show_error
from gsr_core.views.frame import link
from gsr_core.views.session import devices, workspace
from gsr_core.workspace import DEFAULT_WORKSPACE

__all__ = ["choose_study", "study_form", "study_progress", "study_results"]

_POLL = 1.0
"""Seconds between two looks at a study under way."""

_TITLES: dict[str, str] = {
    "noise": "Noisy labels",
    "budget": "Few group labels",
    "leak": "One set for target and val",
    "strength": "Strength of the shortcut",
}
_ABOUT: dict[str, str] = {
    "noise": "Flips the class of a share of the weighted rows. Target, val and test stay clean. "
    "Does the worst group still gain, and do flipped rows get less weight?",
    "budget": "Keeps a share of the target rows, and so of their group labels, with every group "
    "in its proportion. Val keeps all of its labels. How many labels does a repair need?",
    "leak": "Uses the target rows as val as well, so that the rows that drove the weights also "
    "choose the step. How much does val then promise that test does not keep?",
    "strength": "Makes the data again with other shares of conflicting training samples, each as a "
    "bundle of its own, which takes a while. How strong may the shortcut be?",
}
_AXES: dict[str, str] = {
    "noise": "labels flipped (% of weighted rows)",
    "budget": "group labels of target (rows)",
    "strength": "conflicting training samples (%)",
}
_USUAL = ("gsr", "llr", "dfr")
_LEVELS = {
    "noise": "Shares of labels flipped (%)",
    "budget": "Shares of target kept (%)",
    "strength": "Shares of conflicting samples (%)",
}


@dataclass(frozen=True)
class _Request:
    """What the form says."""

    kind: Kind
    methods: list[str]
    levels: list[float]
    seeds: int
    device: str
    name: str

    @property
    def runs(self) -> int:
        return len(self.methods) * len(self.levels) * self.seeds


def study_form(bundle: Bundle) -> None:
    """Draw the choice of study, its number of runs, and the button that starts them."""
    kind: Kind = st.segmented_control(
        "Study",
        KINDS,
        format_func=lambda key: _TITLES[key],
        default=KINDS[0],
        required=True,
        key="study kind",
    )
    st.caption(_ABOUT[kind])
    left, middle, right = st.columns([3, 1, 1])
    with left:
        methods = st.multiselect(
            "Methods",
            list(METHODS),
            default=[name for name in _USUAL if name in METHODS],
            format_func=lambda key: METHODS[key].title,
            key="study methods",
        )
    with middle:
        seeds = st.number_input("Seeds", 1, 20, 3, key="study seeds")
    with right:
        device = st.selectbox("Device", devices(), key="study device")
    left, right = st.columns([3, 2])
    try:
        with left:
            levels = _levels(kind)
        with right:
            name = st.text_input("Name", f"{kind}-{bundle.name}", key=f"study name {kind}")
        request = _Request(kind, methods, levels, int(seeds), device, name.strip())
        bundles = names_of_levels(bundle, levels) if kind == "strength" else []
    except SettingError as error:
        st.warning(sentence(error))
        return
    _start(bundle, request, bundles)


def _levels(kind: Kind) -> list[float]:
    """Draw the choice of levels and return it as shares.

    Raises:
        SettingError: If one is not a number.
    """
    if kind == "leak":
        st.text_input("Levels", "own sets, one set", disabled=True)
        return list(LEVELS[kind])
    chosen = st.multiselect(
        _LEVELS[kind],
        [f"{100 * level:g}" for level in LEVELS[kind]],
        default=[f"{100 * level:g}" for level in LEVELS[kind]],
        accept_new_options=True,
        key=f"study levels {kind}",
        help="Type a number to add it.",
    )
    try:
        return [round(float(each.rstrip(" %")) / 100, 10) for each in chosen]
    except ValueError:
        raise SettingError(f"{', '.join(chosen)}: give percentages as numbers") from None


def _start(bundle: Bundle, request: _Request, bundles: Sequence[str]) -> None:
    state = read_job(workspace(), "study", request.name) if request.name else None
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "Start study",
            type="primary",
            icon=":material/play_arrow:",
            key="study start",
            disabled=not request.runs or (state is not None and state.active),
        )
        factors = f"{len(request.levels)} levels × {len(request.methods)} methods × "
        st.markdown(f"**{request.runs} runs**: {factors}{request.seeds} seeds", width="content")
    with st.expander("The same from a terminal"):
        st.code(_command(bundle, request), language="bash", wrap_lines=True)
    if pressed:
        try:
            study = make_study(
                workspace(),
                request.kind,
                bundle.name,
                request.methods,
                levels=request.levels,
                bundles=bundles,
                seeds=request.seeds,
                device=request.device,
                name=request.name,
            )
            start_job(workspace(), "study", study.name, {})
        except GsrError as error:
            show_error(error)
        else:
            nav.put(study=study.name)
            st.rerun()


def _command(bundle: Bundle, request: _Request) -> str:
    words = ["gsr", "study", request.kind, bundle.name, "--methods", ",".join(request.methods)]
    if request.kind != "leak":
        words += ["--levels", ",".join(f"{level:g}" for level in request.levels)]
    words += ["--seeds", str(request.seeds), "--name", request.name, "--device", request.device]
    if workspace().root != Path(DEFAULT_WORKSPACE).resolve():
        words += ["--workspace", str(workspace().root)]
    return shlex.join(words)


def choose_study(bundle: Bundle) -> Study | None:
    """Draw the choice among the bundle's studies and return it; None if there is none."""
    studies = {
        study.name: study
        for study in list_studies(workspace())
        if study.record.bundle_digest == bundle.manifest.digest
    }
    if not studies:
        with st.container(border=True, key="no study"):
            st.write("**No study of this bundle yet.** Start one above; its figures appear here.")
        return None
    name = nav.select(
        "study",
        "Results of",
        list(studies),
        format_func=lambda key: f"{key} ({_TITLES[studies[key].record.kind].lower()})",
        width=420,
    )
    return studies[name]


def study_progress(study: Study) -> None:
    """Draw the progress of a study, or why it ended early, with buttons to stop or go on."""
    state = read_job(workspace(), "study", study.name)
    if state is not None and state.active:
        st.fragment(_watch, run_every=_POLL)(study.name, len(study.record.runs))
        st.button(
            "Stop",
            key=f"study stop {study.name}",
            icon=":material/stop:",
            on_click=request_stop,
            args=(workspace(), "study", study.name),
        )
        return
    missing = len(study.record.cells()) - len(study.finished())
    if not missing:
        return
    _say_why(state, missing)
    if st.button("Go on", key=f"study go on {study.name}", icon=":material/play_arrow:"):
        start_job(workspace(), "study", study.name, {})
        st.rerun()


def _watch(name: str, done: int) -> None:
    """Draw the progress; redraw the page, and so its figures, when another run is done."""
    state = read_job(workspace(), "study", name)
    there = next(iter(each for each in list_studies(workspace()) if each.name == name), None)
    if state is None or not state.active or there is None or len(there.record.runs) > done:
        nav.refresh()
    stopping = stop_requested(workspace(), "study", name)
    text = f"Stopping after this step · {state.text}" if stopping else state.text
    st.progress(state.fraction, text=plain(text or "Starting"))


def _say_why(state: JobState | None, missing: int) -> None:
    remark = f"{missing} of its runs {'is' if missing == 1 else 'are'} missing."
    if state is not None and state.status is Status.FAILED:
        show_error(f"{state.text} {remark}")
    elif state is not None and state.text and state.status is Status.CANCELLED:
        st.info(f"{sentence(state.text)}. {remark}")
    else:
        st.info(remark)


def study_results(study: Study, bundle: Bundle) -> None:
    """Draw the results: figures, numbers, and a link to the runs."""
    table = outcomes(study)
    if table.empty:
        st.info("No run of this study has finished yet.")
        return
    kind, summary = study.record.kind, summarise_outcomes(table)
    points = table.rename(
        columns={"test_worst_group_accuracy": "test", "val_worst_group_accuracy": "val"}
    )
    for each in (summary, points):
        each["method"] = each["method"].str.upper()
    alt = f"Worst-group accuracy, {_TITLES[kind].lower()}."
    if kind == "leak":
        st.subheader("What val promises and test keeps", anchor=False)
        show(val_against_test(summary, points), key="study accuracy", alt=alt)
    else:
        x = "target" if kind == "budget" else "level"
        figure = accuracy_over_levels(
            summary.assign(x=summary[x]),
            points.assign(x=points[x]),
            axis=_AXES[kind],
            log=kind == "budget",
        )
        left, right = st.columns(2, gap="large") if kind == "noise" else (st.container(), None)
        with left:
            st.subheader(f"Worst group: {_TITLES[kind].lower()}", anchor=False)
            show(figure, key="study accuracy", alt=alt)
        if right is not None:
            with right:
                _where_weights_go(study, bundle)
    _table(kind, summary)
    ids = ",".join(table["run"].groupby([table["method"], table["level"]]).first())
    if kind != "strength":
        link("Compare", "Compare these runs sample by sample", runs=ids)


def _where_weights_go(study: Study, bundle: Bundle) -> None:
    st.subheader("Where the weights of flipped rows go", anchor=False)
    flipped = summarise_flipped(flipped_weights(study))
    offered = list(dict.fromkeys(flipped["method"]))
    if not offered:
        st.caption("None of the methods has values on the noisy rows.")
        return
    method = st.segmented_control(
        "Values of",
        offered,
        format_func=str.upper,
        default=offered[0],
        required=True,
        key=f"study values {study.name}",
    )
    figure = flipped_and_clean(flipped[flipped["method"] == method], colours_of(bundle))
    show(figure, key="study flipped", alt=f"Mean weight of flipped and clean rows under {method}.")


def _table(kind: Kind, summary: pd.DataFrame) -> None:
    share = st.column_config.NumberColumn(format="percent")
    names = {
        "test": "worst group, test",
        "test_sd": "± sd",
        "val": "worst group, val",
        "val_sd": "± sd, val",
        "gap": "val - test",
        "mean": "mean, test",
    }
    if kind == "leak":
        level = summary["level"].map({0.0: "own sets", 1.0: "one set"})
    else:
        level = summary["level"]
    columns = {"method": summary["method"], "level": level, "seeds": summary["seeds"]}
    columns["target rows"] = summary["target"].round().astype(int)
    columns |= {heading: summary[name] for name, heading in names.items()}
    st.dataframe(
        pd.DataFrame(columns),
        hide_index=True,
        column_config={
            **dict.fromkeys(names.values(), share),
            "level": st.column_config.Column() if kind == "leak" else share,
        },
    )
    st.caption(
        "Accuracies at the kept step, means over seeds; ± is one standard deviation over seeds, "
        "faint points are single seeds. A seed redraws target, val and the method's own draws."
    )
