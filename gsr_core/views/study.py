"""The Study page: what to vary, the progress of a study, and its results."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError, SettingError
from gsr_core.experiments.strength import names_of_levels
from gsr_core.experiments.study import KINDS, LEVELS, Kind, Study, list_studies, open_study
from gsr_core.experiments.study_job import StudyJob
from gsr_core.experiments.study_outcomes import (
    flipped_weights,
    outcomes,
    summarise_flipped,
    summarise_outcomes,
)
from gsr_core.figures.study import accuracy_over_levels, flipped_and_clean, val_against_test
from gsr_core.jobs.queue import start_job
from gsr_core.methods.registry import METHODS
from gsr_core.names import method_label
from gsr_core.progress import Status
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import colours_of, plain, sentence, show, show_error, show_rows
from gsr_core.views.estimate import estimate, show_time_left
from gsr_core.views.frame import link
from gsr_core.views.job_watch import go_on_button, say_why, state_of, watch_job
from gsr_core.views.missing import is_missing, say_missing
from gsr_core.views.session import devices, workspace

__all__ = ["choose_study", "study_form", "study_progress", "study_results"]

_TITLES: dict[str, str] = {
    "noise": "Noisy labels",
    "group_noise": "Noisy group labels",
    "budget": "Few group labels",
    "balance": "Balance of target",
    "leak": "One set for target and val",
    "strength": "Strength of the shortcut",
}
_ABOUT: dict[str, str] = {
    "noise": "Flips the class of a share of the weighted rows. Target, val and test stay clean. "
    "Does the worst group still gain, and do flipped rows get less weight?",
    "group_noise": "Gives a share of the weighted and of the target rows the groups of another "
    "combination of their class, as if somebody had seen the wrong background. Classes, val and "
    "test stay clean. From what noise on is a method without group labels the better one?",
    "budget": "Keeps a share of the target rows, and so of their group labels, with every group "
    "in its proportion. Val keeps all of its labels. How many labels does a repair need?",
    "balance": "Leaves target rows out until their groups have shares between those of the "
    "weighted rows and equal ones; as many rows for every level. Which methods work only because "
    "target is balanced, and so profit from its groups without reading them?",
    "leak": "Uses the target rows as val as well, so that the rows that drove the weights also "
    "choose the step. How much does val then promise that test does not keep?",
    "strength": "Makes the data again with other shares of conflicting training samples, each as a "
    "bundle of its own, which takes a while. How strong may the shortcut be?",
}
_AXES: dict[str, str] = {
    "noise": "labels flipped (% of weighted rows)",
    "group_noise": "group labels changed (% of weighted and of target rows)",
    "budget": "group labels of target (rows)",
    "balance": "balance of target (0 %: shares of heldout, 100 %: equal groups)",
    "strength": "conflicting training samples (%)",
}
_USUAL = ("gsr", "llr", "dfr")
_LEVELS = {
    "noise": "Shares of labels flipped (%)",
    "group_noise": "Shares of group labels changed (%)",
    "budget": "Shares of target kept (%)",
    "balance": "Balance of target (%)",
    "strength": "Shares of conflicting samples (%)",
}


def study_form(bundle: Bundle, runs: list[Run]) -> None:
    """Draw the choice of study, its number of runs, and the button that starts them."""
    kind: Kind = st.segmented_control(
        "Study",
        KINDS,
        format_func=lambda key: _TITLES[key],
        default=KINDS[0],
        required=True,
        key="study kind",
        persist_state="session",
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
            persist_state="session",
        )
    with middle:
        seeds = st.number_input("Seeds", 1, 20, 3, key="study seeds", persist_state="session")
    with right:
        device = st.selectbox("Device", devices(), key="study device", persist_state="session")
    left, right = st.columns([3, 2])
    try:
        with left:
            levels = _levels(kind)
        with right:
            name = st.text_input(
                "Name",
                f"{kind}-{bundle.name}",
                key=f"study name {kind} {bundle.name}",
                persist_state="session",
            )
        if kind == "strength":
            names_of_levels(bundle, levels)
    except SettingError as error:
        st.warning(sentence(error))
        return
    _start(
        StudyJob(
            study=kind,
            bundle=bundle.name,
            methods=tuple(methods),
            levels=tuple(levels),
            seeds=int(seeds),
            device=device,
            name=name.strip(),
        ),
        runs,
    )


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
        persist_state="session",
        help="Type a number to add it.",
    )
    try:
        return [round(float(each.rstrip(" %")) / 100, 10) for each in chosen]
    except ValueError:
        raise SettingError(f"{', '.join(chosen)}: give percentages as numbers") from None


def _start(job: StudyJob, runs: list[Run]) -> None:
    state = state_of(job) if job.name else None
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "Start study",
            type="primary",
            icon=":material/play_arrow:",
            key="study start",
            disabled=not job.runs or (state is not None and state.active),
        )
        grid = f"{len(job.levels)} levels × {len(job.methods)} methods × {job.seeds} seeds"
        st.markdown(f"**{job.runs} runs**: {grid}", width="content")
    count = len(job.levels) * job.seeds
    wanted = [(name, job.settings.get(name, {}), count) for name in job.methods]
    also = " Making the bundles comes on top." * (job.study == "strength")
    st.caption(estimate(runs, wanted) + also)
    with st.expander("The same from a terminal"):
        st.code(job.command(workspace()), language="bash", wrap_lines=True)
    if pressed:
        try:
            job = job.begin(workspace())
            start_job(workspace(), job)
        except GsrError as error:
            show_error(error)
        else:
            nav.put(study=job.name)
            st.rerun()


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
    if is_missing("study", studies):
        say_missing(
            "study",
            f"There is no study **{plain(nav.get('study'))}** of bundle {plain(bundle.name)} as it "
            "is now. Another is shown.",
        )
    return studies[name]


def study_progress(study: Study) -> None:
    """Draw the progress of a study, or why it ended early, with buttons to stop or go on."""
    job = StudyJob.of(study)
    state, done = state_of(job), len(study.record.runs)
    if state is not None and state.active:

        def grown() -> bool:
            """Return whether another run is done, and so another point in the figures."""
            try:
                return len(open_study(workspace(), study.name).record.runs) > done
            except GsrError:
                return True

        watch_job(state, part="step", changed=grown)
        ended = [run.state.seconds for _, run in study.finished()]
        show_time_left(ended, len(study.record.cells()) - len(ended))
        return
    missing = len(study.record.cells()) - len(study.finished())
    if not missing:
        return
    rest = f"{missing} of its runs {'is' if missing == 1 else 'are'} missing."
    if state is not None and state.status is Status.FAILED:
        say_why(state, f" {rest}")
    elif state is not None and state.text and state.status is Status.CANCELLED:
        say_why(state, f". {rest}")
    else:
        st.info(rest)
    go_on_button(job)


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
        each["method"] = each["method"].map(method_label)
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
    show_rows(
        pd.DataFrame(columns),
        column_config={
            **dict.fromkeys(names.values(), share),
            "level": st.column_config.Column() if kind == "leak" else share,
        },
    )
    st.caption(
        "Accuracies at the kept step, means over seeds; ± is one standard deviation over seeds, "
        "faint points are single seeds. A seed redraws target, val and the method's own draws."
    )
