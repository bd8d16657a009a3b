"""One sample in full: its image, its weight over the steps, its influence, and its neighbours.

It can be flagged here, with a note and the label that it should have.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.curation.flags import flag_rows, unflag_rows
from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.errors import GsrError
from gsr_core.figures.weights import sample_influence, weight_path
from gsr_core.maps.heads import map_head
from gsr_core.names import method_label
from gsr_core.progress import duration
from gsr_core.runs.influence import influence_at, influence_seconds
from gsr_core.runs.samples import INFLUENCE, goal_weights
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import badge, colours_of, percent, plain, show, show_error, single_group
from gsr_core.views.face import face, face_in_full
from gsr_core.views.frame import link
from gsr_core.views.loading import load_neighbours, load_samples, load_weight_paths
from gsr_core.views.look import where_it_looks
from gsr_core.views.session import workspace
from gsr_core.views.slices import flags_of

__all__ = ["sample_detail"]

_NEIGHBOURS = 6
_GOAL = "the goal"
_SOON = 10.0
"""Seconds that a page may compute an influence."""


def sample_detail(bundle: Bundle, run: Run, *, to_map: bool = True) -> None:
    """Open the focused sample beside the page, if one is focused.

    Args:
        bundle: The data.
        run: The run whose weights and predictions are shown.
        to_map: Whether to draw a link to the sample on the map.
    """
    chosen = nav.get("sample")
    if not chosen:
        return
    if not chosen.isdecimal() or len(chosen) > 12 or int(chosen) >= len(bundle):
        st.warning(f"There is no sample '{plain(chosen)}' in this bundle.")
        return
    _dialog(bundle, run, int(chosen), to_map)


def _close() -> None:
    nav.put(sample=None)


@st.dialog("Sample", width="medium", position="right", on_dismiss=_close)
def _dialog(bundle: Bundle, run: Run, row: int, to_map: bool) -> None:
    # Its own buttons run only the dialog again, with the arguments it was opened with.
    row = int(nav.get("sample") or row)
    # The run's own splits: a seed above 0 redraws target and val.
    split = next((name for name in SPLITS if (run.rows_of(name, bundle) == row).any()), None)
    if split is None:
        st.info("This run left this sample out.")
        return
    table = load_samples(run, split)
    index = int(np.flatnonzero(table["row"].to_numpy() == row)[0])
    sample = table.iloc[index]
    classes = bundle.manifest.classes
    left, right = st.columns([1, 2])
    with left:
        face_in_full(bundle, row, alt=f"sample {sample['sample_id']}")
    with right:
        st.subheader(plain(sample["sample_id"]), anchor=False)
        st.write(f"{plain(sample['group'])} · {split}")
        verdict = "right" if sample["correct"] else f"wrong: it is {plain(classes[sample['y']])}"
        st.write(
            f"Predicted **{plain(classes[sample['prediction']])}** with "
            f"{percent(float(sample['confidence']))}, {verdict}. Loss {sample['loss']:.3g} nats."
        )
        if "weight" in table.columns:
            alike = int((table["rank"] == sample["rank"]).sum()) - 1
            st.write(
                f"Weight **{sample['weight']:.3g}×** an equal share, rank {sample['rank']:,} of "
                f"{len(table):,}{f', as are {alike:,} others' if alike else ''}."
            )
        if "inferred_group" in table.columns:
            number = int(sample["inferred_group"])
            group = f"inferred group {number}" if number >= 0 else "no inferred group: an outlier"
            st.write(f"The method put it in {group}.")
        attributes = {name: str(sample[name]) for name in bundle.manifest.attributes}
        if attributes:
            st.caption(" · ".join(plain(f"{name}: {value}") for name, value in attributes.items()))
        with st.container(horizontal=True, vertical_alignment="center", key="detail ways"):
            _turn(row)
            if to_map:
                link("Map", "Show on the map", run=run.run_id, split=split, sample=row)
    _flag(bundle, row)
    where_it_looks(bundle, run, row)
    if "weight" in table.columns:
        _weight_path(bundle, run, index, sample)
    _influence(bundle, run, table, index, sample)
    _neighbours(bundle, run, split, table, index)


def _turn(row: int) -> None:
    """Draw the buttons to the previous and the next sample of the gallery."""
    order = st.session_state.get("sample order")
    places = np.flatnonzero(order == row) if order is not None else np.zeros(0, dtype=int)
    if not places.size or order is None:
        return
    place = int(places[0])
    for label, key, other in (
        ("Previous", "ArrowLeft", place - 1),
        ("Next", "ArrowRight", place + 1),
    ):
        inside = 0 <= other < len(order)
        st.button(
            label,
            shortcut=key,
            disabled=not inside,
            key=f"detail {label}",
            on_click=lambda other=other: nav.put(sample=int(order[other])),
        )


def _flag(bundle: Bundle, row: int) -> None:
    """Draw the sample's flag, if it has one, and the form that changes it."""
    flags = flags_of(bundle)
    mine = flags[flags["row"] == row]
    flag = {"reason": "", "note": "", "proposed_label": ""}
    if len(mine):
        flag = mine.iloc[0].to_dict()
        badge(f"flagged: {flag['reason']}", icon=":material/flag:", colour="red")
        remarks = [f"Proposed label: {plain(flag['proposed_label'])}."] * bool(
            flag["proposed_label"]
        )
        remarks += [plain(flag["note"])] * bool(flag["note"])
        if remarks:
            st.caption(" ".join(remarks))
    classes = ["", *bundle.manifest.classes]
    title = "Change the flag" if len(mine) else "Flag this sample"
    # Each sample has an expander of its own, folded at first.
    with st.expander(title, icon=":material/flag:", key=f"detail flag {row}"):
        with st.form(f"flag form {row} {len(mine)}", border=False):
            label = "One more reason" if len(mine) else "Reason"
            reason = st.text_input(label, max_chars=200, placeholder="Why it is suspect")
            note = st.text_input("Note", value=flag["note"], max_chars=500)
            proposed = st.selectbox(
                "Proposed label",
                classes,
                index=classes.index(flag["proposed_label"]),
                format_func=lambda name: name or "none",
            )
            if st.form_submit_button("Save" if len(mine) else "Flag", type="primary"):
                try:
                    flag_rows(
                        workspace(),
                        bundle,
                        np.array([row]),
                        # Without a new reason, the old ones are passed again.
                        reason if reason.strip() else flag["reason"],
                        note=note,
                        proposed_label=proposed,
                    )
                except GsrError as error:
                    show_error(error)
                else:
                    st.rerun(scope="fragment")
        if len(mine) and st.button("Remove the flag", key="detail unflag"):
            unflag_rows(workspace(), bundle, np.array([row]))
            st.rerun(scope="fragment")


def _weight_path(bundle: Bundle, run: Run, index: int, sample: pd.Series) -> None:
    path = load_weight_paths(run, index, str(sample["group"]))
    if len(path) < 2:
        return
    st.markdown("**Weight over the steps**")
    figure = weight_path(
        path,
        n=len(run.weighted_rows()),
        selected=run.state.best_step,
        colour=colours_of(bundle)[single_group(bundle, np.array([sample["row"]]))[0]],
    )
    show(figure, key="detail path", alt="The sample's weight at each stored step.")


def _influence(
    bundle: Bundle, run: Run, table: pd.DataFrame, index: int, sample: pd.Series
) -> None:
    """Draw whom more weight on the sample would help and harm, beside all other samples."""
    st.markdown("**Influence on each group**")
    groups = run.groups_seen(bundle)
    columns = [INFLUENCE + name for name in groups]
    if columns[0] not in sample.index:
        if f"gsr influence {run.run_id}" in run.state.note:
            st.caption(plain(run.state.note))
            return
        if run.features_file.exists() and sample["row"] in run.weighted_rows():
            st.caption(
                "Through the whole network it takes many passes over all samples that were "
                "trained on; from a terminal:"
            )
            st.code(f"gsr influence {run.run_id}", language="bash")
            return
        st.caption(
            "Influence is defined for samples that carry a weight, under a head fitted to these "
            f"weights; {method_label(run.config.method)} has none for this sample."
        )
        return
    kept = run.state.best_step
    step, every = _influence_step(run), table[["goal", *columns]].to_numpy(dtype=float)
    if step != kept:
        if run.influence_of(step) is None:
            seconds = influence_seconds(run.state.seconds, run.state.step, len(columns))
            if seconds > _SOON:
                st.caption(f"This would take about {duration(seconds)}; from a terminal:")
                st.code(f"gsr influence {run.run_id} --step {step}", language="bash")
                return
        try:
            with st.spinner(f"Computing the influence at step {step}"):
                of_groups = influence_at(run, step).astype(float)
        except (GsrError, OSError) as error:
            show_error(error)
            return
        every = np.column_stack([of_groups @ goal_weights(run, bundle, step), of_groups])
    values, sizes = every[index], np.abs(every)
    shown = pd.DataFrame(
        {
            "group": [_GOAL, *groups],
            "influence": values,
            "stronger_than": (sizes < np.abs(values)).mean(axis=0),
        }
    )
    what = "lowers" if values[0] < 0 else "raises" if values[0] > 0 else "does not change"
    better = float((every[:, 0] < values[0]).mean())
    which = ", the kept one," if step == kept else ""
    caution = (
        "It is through the whole network, which is at no minimum of its loss: take it as an order "
        "of samples, not as a forecast."
        if run.features_file.exists()
        else "It says what more weight would do at this step, not why the weight grew before."
    )
    st.caption(
        f"At step {step}{which} more weight on this sample {what} the goal (the groups' losses as "
        f"the method weighs them there), by {abs(values[0]):.3g} nats per unit of weight; the "
        f"strongest of all samples do so by {sizes[:, 0].max():.3g}. More weight on "
        f"{percent(better)} of the {len(table):,} samples would serve the goal better. {caution}"
    )
    show(
        sample_influence(shown),
        key="detail influence",
        alt="Influence on the goal and on each group, compared with all other samples.",
    )


def _influence_step(run: Run) -> int:
    """Draw the choice of a step whose weights are stored, if there are several; return it."""
    steps, kept = run.weight_steps().tolist(), run.state.best_step
    # Of a network, that of the kept step alone is there.
    if len(steps) < 2 or kept not in steps or run.features_file.exists():
        return kept
    return st.select_slider(
        "At step",
        steps,
        value=kept,
        key=f"detail influence step {run.run_id} {kept}",
        help="The influence is computed and kept when a step is first chosen.",
    )


def _neighbours(bundle: Bundle, run: Run, split: str, table: pd.DataFrame, index: int) -> None:
    spaces = ["features", "gradients"] if map_head(bundle, run) is not None else ["features"]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Nearest in the same split**")
        space = st.segmented_control(
            "Space",
            spaces,
            default="features",
            required=True,
            key="detail space",
            label_visibility="collapsed",
        )
    near, distance = load_neighbours(run, split, space, index, _NEIGHBOURS)
    for column, other, far in zip(st.columns(_NEIGHBOURS), near, distance, strict=False):
        sample = table.iloc[other]
        with column:
            face(bundle, int(sample["row"]), alt=f"neighbour {sample['sample_id']}")
            weight = f"{sample['weight']:.2g}× · " if "weight" in table.columns else ""
            st.caption(f"{plain(sample['group'])}  \n{weight}cosine distance {far:.2g}")
            st.button(
                plain(sample["sample_id"]),
                key=f"detail near {other}",
                type="tertiary",
                on_click=lambda row=int(sample["row"]): nav.put(sample=row),
            )
