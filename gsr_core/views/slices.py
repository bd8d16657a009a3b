"""Slices and flags on the pages: choosing a slice, saving and flagging, looking after them.

A slice is a set of samples that a user picked out. The URL has it by its key, the same on every
page; `flagged` in its place stands for all flagged samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.curation.accuracy import slice_accuracy
from gsr_core.curation.flags import flag_rows, flagged, unflag_rows
from gsr_core.curation.slices import (
    NAME_LENGTH,
    Slice,
    delete_slice,
    list_slices,
    load_slice,
    name_slice,
    rename_slice,
    save_slice,
)
from gsr_core.curation.tables import ENDINGS, describe_flags, describe_rows, encode_table
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.figures.groups import group_accuracy
from gsr_core.figures.theme import UNKNOWN
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import colours_of, percent, plain, show
from gsr_core.views.frame import link
from gsr_core.views.session import workspace

__all__ = [
    "FLAGGED",
    "Chosen",
    "accuracy_of_slices",
    "change_and_redraw",
    "choose_slice",
    "downloads",
    "flags_of",
    "look_after_slices",
    "open_in_samples",
    "save_and_flag",
    "slices_of",
    "within",
]

FLAGGED = "flagged"
"""In the URL, the place of a slice's key for all flagged samples."""

_NONE = (
    "No slice is saved on this bundle yet. Slices come from the Map (a lasso, a cluster) and from "
    "Samples, where whatever passes the filters can be saved as one."
)
_KINDS = {".csv": ("CSV", "text/csv"), ".parquet": ("parquet", "application/vnd.apache.parquet")}


@dataclass(frozen=True)
class Chosen:
    """The slice that a page looks at.

    Attributes:
        key: As the URL has it.
        label: Name for people, within a sentence.
        rows: (q,) positions in the bundle.
    """

    key: str
    label: str
    rows: np.ndarray


def slices_of(bundle: Bundle) -> list[Slice]:
    """Return the bundle's slices, oldest first; say so and return none if they cannot be read."""
    try:
        return list_slices(workspace(), bundle)
    except GsrError as error:
        st.error(str(error))
        return []


def flags_of(bundle: Bundle) -> pd.DataFrame:
    """Return the bundle's flags by row; say so and return none if they cannot be read."""
    try:
        return flagged(workspace(), bundle)
    except GsrError as error:
        st.error(str(error))
        return pd.DataFrame({"row": np.zeros(0, dtype=np.int64), "reason": [], "note": []})


def choose_slice(bundle: Bundle) -> Chosen | None:
    """Draw the choice of a slice, where there is any, and return it; None stands for all samples.

    A set without a name, which came here by a link, is a button that lets go of it instead.
    """
    key, flags = nav.get("slice"), flags_of(bundle)
    rows = {FLAGGED: flags["row"].to_numpy()} if len(flags) or key == FLAGGED else {}
    names = {FLAGGED: f"flagged ({len(flags):,})"} if rows else {}
    for each in slices_of(bundle):
        # Two names of the same samples are one choice.
        names[each.key] = f"{names[each.key]} = {each.name}" if each.key in names else each.name
        rows[each.key] = each.rows
    if key and key not in rows:
        found = load_slice(workspace(), bundle, key)
        if found is not None:
            st.button(
                f"{len(found):,} selected on the map",
                icon=":material/close:",
                help="Show all samples again",
                key="drop slice",
                on_click=lambda: nav.put(slice=None),
            )
            return Chosen(key, "the selection", found)
        st.caption("The selection in this link is not in this workspace, or is of other data.")
    if not names:
        return None
    chosen = nav.select(
        "slice", "Slice", ["", *names], format_func=lambda each: names.get(each, "all"), width=200
    )
    said = {FLAGGED: "the flagged samples"}.get(chosen, names.get(chosen, ""))
    return Chosen(chosen, said, rows[chosen]) if chosen else None


def within(table: pd.DataFrame, chosen: Chosen | None) -> pd.DataFrame:
    """Return the rows of a `sample_table` that are in the chosen slice; all if none is."""
    return table if chosen is None else table[table["row"].isin(chosen.rows)]


# Saving and flagging -------------------------------------------------------------------------


def save_and_flag(
    bundle: Bundle, rows: np.ndarray, about: str, name: str = "", *, key: str = "these"
) -> None:
    """Draw what can be done with samples: keep them as a slice, flag them, take flags back.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle; at least one.
        about: What they are, in words.
        name: What the slice is called unless the user says otherwise.
        key: Identity on the page.
    """
    if said := st.session_state.pop("slices said", ""):
        st.toast(said, icon=":material/check:")
    n = len(rows)
    # Another key is another popover, which is folded: what was asked for is done.
    done = st.session_state.setdefault("slices done", 0)
    with st.popover(
        f"Save these {n:,} as a slice",
        icon=":material/bookmark_add:",
        key=f"save slice {key} {done}",
    ):
        st.caption(about)
        with st.form(f"save slice form {key} {done}", border=False):
            chosen = st.text_input(
                "Name of the slice", value=name[:NAME_LENGTH], max_chars=NAME_LENGTH
            )
            if st.form_submit_button("Save", type="primary"):
                _do(
                    lambda: name_slice(workspace(), bundle, chosen, rows, about),
                    f"Saved {n:,} samples as {plain(chosen.strip())}",
                )
    marked = int(np.isin(flags_of(bundle)["row"], rows).sum())
    with st.popover(f"Flag these {n:,}", icon=":material/flag:", key=f"flag {key} {done}"):
        with st.form(f"flag form {key} {done}", border=False):
            reason = st.text_input("Reason", max_chars=200, placeholder="Why they are suspect")
            if st.form_submit_button("Flag", type="primary"):
                _do(
                    lambda: flag_rows(workspace(), bundle, rows, reason),
                    f"Flagged {n:,} samples",
                )
        if marked and st.button(f"Take back the flags of {marked:,}", key=f"unflag {key} {done}"):
            _do(
                lambda: unflag_rows(workspace(), bundle, rows),
                f"Took back the flags of {marked:,} samples",
            )


def _do(what: Callable[[], object], said: str) -> None:
    """Change slices or flags and draw the page again, or say what was wrong."""

    def change() -> None:
        what()
        st.session_state["slices said"] = said
        st.session_state["slices done"] += 1

    change_and_redraw(change)


def change_and_redraw(change: Callable[[], object]) -> None:
    """Make a change and draw the page again, or say in a sentence why it cannot be made.

    Args:
        change: May raise `GsrError`.
    """
    try:
        change()
    except GsrError as error:
        st.error(plain(error))
        return
    st.rerun()


def open_in_samples(bundle: Bundle, rows: np.ndarray, text: str) -> None:
    """Draw the way to Samples with these samples alone.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
        text: What the link says.
    """
    link(
        "Samples",
        text,
        slice=save_slice(workspace(), bundle, rows),
        **dict.fromkeys(("group", "y", "prediction", "changed")),
    )


# Looking after them --------------------------------------------------------------------------


def look_after_slices(bundle: Bundle) -> None:
    """Draw the bundle's slices and flags, with renaming, deleting and downloads."""
    with st.expander("Slices and flags of this bundle", icon=":material/bookmarks:", key="slices"):
        found = slices_of(bundle)
        if not found:
            st.caption(_NONE)
        else:
            _table(bundle, found)
        flags = flags_of(bundle)
        if not len(flags):
            st.caption("No sample is flagged.")
            return
        with st.container(horizontal=True, vertical_alignment="center", key="flags"):
            st.markdown(f"**{len(flags):,} flagged samples**")
            downloads(
                lambda: describe_flags(workspace(), bundle),
                label="Flags as",
                name=f"{bundle.name}-flags",
                key="flags",
            )


def _table(bundle: Bundle, found: Sequence[Slice]) -> None:
    st.dataframe(
        {
            "slice": [each.name for each in found],
            "samples": [len(each.rows) for each in found],
            "from": [each.about for each in found],
            "saved": pd.to_datetime([each.created for each in found]),
        },
        hide_index=True,
        column_config={
            "slice": st.column_config.Column(width="medium", pinned=True),
            "from": st.column_config.Column(width="large"),
            "saved": st.column_config.DatetimeColumn(format="D MMM HH:mm"),
        },
    )
    by_name = {each.name: each for each in found}
    done = st.session_state.setdefault("slices done", 0)
    with st.container(horizontal=True, vertical_alignment="bottom", key="slice tools"):
        chosen = by_name[st.selectbox("Look after", list(by_name), key="own slice", width=240)]
        with (
            st.popover("Rename", icon=":material/edit:", key=f"rename {done}"),
            st.form(f"rename form {chosen.name} {done}", border=False),
        ):
            new = st.text_input("New name", value=chosen.name, max_chars=NAME_LENGTH)
            if st.form_submit_button("Rename the slice", type="primary"):
                _do(
                    lambda: rename_slice(workspace(), bundle, chosen.name, new),
                    f"It is called {plain(new.strip())} now",
                )
        with st.popover("Delete", icon=":material/delete:", key=f"delete {done}"):
            st.caption(f"{plain(chosen.name)}: the samples stay, their name goes.")
            if st.button("Delete the slice", type="primary", key=f"delete slice {done}"):
                _do(
                    lambda: delete_slice(workspace(), bundle, chosen.name),
                    f"Deleted {plain(chosen.name)}",
                )
        downloads(
            lambda: describe_rows(bundle, chosen.rows, slice=chosen.name),
            label="Slice as",
            name=f"{bundle.name}-slice-{chosen.key}",
            key="slice",
        )


def downloads(content: Callable[[], pd.DataFrame], *, label: str, name: str, key: str) -> None:
    """Offer a table as CSV and as parquet, made when it is asked for.

    Args:
        content: Makes the table.
        label: Before the kind of file.
        name: Of the file, without its ending.
        key: Identity on the page.
    """
    for ending in ENDINGS:
        kind, mime = _KINDS[ending]
        st.download_button(
            f"{label} {kind}",
            data=lambda ending=ending: encode_table(content(), ending),
            file_name=name + ending,
            mime=mime,
            # A click that also draws the page again can lose the answer with the file.
            on_click="ignore",
            icon=":material/download:",
            key=f"download {key} {kind}",
        )


# How good a classifier is on them ------------------------------------------------------------


def accuracy_of_slices(bundle: Bundle, run: Run, split: str, samples: pd.DataFrame) -> None:
    """Draw how a classifier does on each slice, with links to its mistakes.

    Args:
        bundle: The data.
        run: The classifier.
        split: On which samples.
        samples: `sample_table` of the whole split.
    """
    st.subheader(f"Accuracy of each slice on {split}", anchor=False)
    found = slices_of(bundle)
    if not found:
        st.caption(_NONE)
        return
    scored = slice_accuracy(bundle, samples, found)
    there, missing = scored[scored["n"] > 0], scored.loc[scored["n"] == 0, "slice"]
    if len(missing):
        names = ", ".join(plain(name) for name in missing)
        st.caption(f"Without a sample in {split}: {names}.")
    if there.empty:
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        colours = colours_of(bundle)
        figure = group_accuracy(
            there.drop(columns="group").rename(columns={"slice": "group"}),
            colours={
                name: colours.get(group, UNKNOWN)
                for name, group in zip(there["slice"], there["group"], strict=True)
            },
            mean=float(samples["correct"].mean()),
            what="slice",
        )
        show(figure, key="slice accuracy", alt="Accuracy of each slice with its 95 % interval.")
        st.caption(
            f"Dots are accuracies on the slice's samples in {split}, bars 95 % Wilson intervals; "
            "grey are fewer than 20 samples. A slice has the colour of the group that most of its "
            "samples are in."
        )
    with right:
        _worst(there)
        share = st.column_config.NumberColumn(format="percent")
        st.dataframe(
            there[["slice", "accuracy", "group", "purity", "n"]],
            hide_index=True,
            column_config={
                "slice": st.column_config.Column(pinned=True),
                "accuracy": share,
                "group": st.column_config.Column("mostly of group"),
                "purity": st.column_config.NumberColumn(
                    "its share",
                    format="percent",
                    help=f"Share of the slice's samples in {split} that are in that group.",
                ),
            },
        )
    with st.container(horizontal=True, key="slice mistakes"):
        for row in there.to_dict("records"):
            link(
                "Samples",
                f"{plain(row['slice'])}: {row['wrong']:,} of {row['n']:,} wrong",
                run=run.run_id,
                split=split,
                slice=row["key"],
                prediction="wrong",
                sort="highest loss",
                **dict.fromkeys(("group", "y", "changed", "sample")),
            )


def _worst(there: pd.DataFrame) -> None:
    if not there["worst"].any():
        st.caption("Every slice has fewer than 20 samples here: too few to name a worst one.")
        return
    row = there[there["worst"]].iloc[0]
    of = f", of which {percent(row['purity'])} are {plain(row['group'])}" if row["group"] else ""
    st.markdown(
        f"Worst slice: **{plain(row['slice'])}**, {percent(row['accuracy'])} right of "
        f"{row['n']:,} samples{of}."
    )
