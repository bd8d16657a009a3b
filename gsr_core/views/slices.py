"""Slices and flags on every page: choosing a slice, saving samples as a slice, flagging them.

A slice is a set of samples that a user picked. The URL names it by its key, on every page alike;
`flagged` in place of a key stands for all flagged samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.curation.flags import flag_rows, flagged, unflag_rows
from gsr_core.curation.slices import (
    NAME_LENGTH,
    Slice,
    list_slices,
    load_slice,
    name_slice,
    save_slice,
    slice_key,
)
from gsr_core.curation.tables import ENDINGS, encode_table
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show_error
from gsr_core.views.frame import link
from gsr_core.views.session import workspace

__all__ = [
    "FLAGGED",
    "NO_SLICE",
    "SliceChoice",
    "ask_what_if",
    "change_and_redraw",
    "choose_slice",
    "downloads",
    "flags_of",
    "offered_slice",
    "open_in_samples",
    "report_change",
    "save_and_flag",
    "slices_of",
    "within",
]

FLAGGED = "flagged"
"""In the URL, what stands for all flagged samples in place of a slice's key."""

_MOST_OFFERED = 500
"""Sets that are held for links."""

NO_SLICE = (
    "No slice is saved on this bundle yet. Slices come from the Map (a lasso, a cluster) and from "
    "Samples, where whatever passes the filters can be saved as one."
)
_KINDS = {".csv": ("CSV", "text/csv"), ".parquet": ("parquet", "application/vnd.apache.parquet")}


@dataclass(frozen=True)
class SliceChoice:
    """The slice that a page shows.

    Attributes:
        key: Its key in the URL.
        label: Its name within a sentence.
        rows: (q,) positions in the bundle.
    """

    key: str
    label: str
    rows: np.ndarray


def slices_of(bundle: Bundle) -> list[Slice]:
    """Return the bundle's slices, oldest first; if they cannot be read, say so and return none."""
    try:
        return list_slices(workspace(), bundle)
    except GsrError as error:
        show_error(error)
        return []


def flags_of(bundle: Bundle) -> pd.DataFrame:
    """Return the bundle's flags by row; if they cannot be read, say so and return none."""
    try:
        return flagged(workspace(), bundle)
    except GsrError as error:
        show_error(error)
        return pd.DataFrame({"row": np.zeros(0, dtype=np.int64), "reason": [], "note": []})


def choose_slice(bundle: Bundle) -> SliceChoice | None:
    """Draw the choice of a slice, if there are any, and return it; None stands for all samples.

    A set without a name, which a link named, is shown as a button that drops it instead.
    """
    key, flags = nav.get("slice"), flags_of(bundle)
    rows = {FLAGGED: flags["row"].to_numpy()} if len(flags) or key == FLAGGED else {}
    names = {FLAGGED: f"flagged ({len(flags):,})"} if rows else {}
    for each in slices_of(bundle):
        # Two names of the same samples are one choice.
        names[each.key] = f"{names[each.key]} = {each.name}" if each.key in names else each.name
        rows[each.key] = each.rows
    if key and key not in rows:
        selection = load_slice(workspace(), bundle, key)
        if selection is None:
            selection = _take(bundle, key)
        if selection is not None:
            st.button(
                f"{len(selection):,} selected",
                icon=":material/close:",
                help="Show all samples again",
                key="drop slice",
                on_click=lambda: nav.put(slice=None),
            )
            return SliceChoice(key, "the selection", selection)
        st.caption(
            "This workspace does not have the selection of this link, or has it for other data."
        )
    if not names:
        return None
    chosen = nav.select(
        "slice", "Slice", ["", *names], format_func=lambda each: names.get(each, "all"), width=200
    )
    label = {FLAGGED: "the flagged samples"}.get(chosen, names.get(chosen, ""))
    return SliceChoice(chosen, label, rows[chosen]) if chosen else None


@st.cache_resource(show_spinner=False)
def _offered() -> dict[str, np.ndarray]:
    """Return the sets that pages have links to, by key, a bit a sample; for all windows."""
    return {}


def offered_slice(bundle: Bundle, rows: np.ndarray) -> str:
    """Return the key of a set for a link, by which it is written down only if that is opened.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
    """
    inside = np.zeros(len(bundle), dtype=bool)
    inside[rows] = True
    key, offered = slice_key(bundle, np.flatnonzero(inside)), _offered()
    offered.pop(key, None)  # The newest are last.
    offered[key] = np.packbits(inside)
    for old in list(offered)[:-_MOST_OFFERED]:
        offered.pop(old, None)
    return key


def _take(bundle: Bundle, key: str) -> np.ndarray | None:
    """Write down the set whose link was opened and return its positions; None if there is none."""
    packed = _offered().get(key)
    if packed is None or len(packed) != -(-len(bundle) // 8):
        return None
    rows = np.flatnonzero(np.unpackbits(packed, count=len(bundle)))
    if slice_key(bundle, rows) != key:
        return None  # It is of another bundle.
    save_slice(workspace(), bundle, rows)
    return rows


def within(table: pd.DataFrame, chosen: SliceChoice | None) -> pd.DataFrame:
    """Return the rows of a `sample_table` that are in the chosen slice; all if none is."""
    return table if chosen is None else table[table["row"].isin(chosen.rows)]


# Saving and flagging -------------------------------------------------------------------------


def save_and_flag(
    bundle: Bundle,
    rows: np.ndarray,
    about: str,
    name: str = "",
    *,
    order: str = "",
    key: str = "these",
) -> None:
    """Draw the actions on samples: save them as a slice, flag them, remove their flags.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle; at least one.
        about: A description of the samples.
        name: The name of the slice that is proposed.
        order: What the rows are ordered by, if the first of them may be saved alone.
        key: Identity on the page.
    """
    if news := st.session_state.pop("slice news", ""):
        st.toast(news, icon=":material/check:")
    n = len(rows)
    # After a change the popovers get new keys, and so are folded again.
    changes = st.session_state.setdefault("slice changes", 0)
    with st.popover(
        f"Save these {n:,} as a slice",
        icon=":material/bookmark_add:",
        key=f"save slice {key} {changes}",
    ):
        st.caption(plain(about))
        with st.form(f"save slice form {key} {changes}", border=False):
            chosen = st.text_input(
                "Name of the slice", value=name[:NAME_LENGTH], max_chars=NAME_LENGTH
            )
            first = n
            if order:
                first = st.number_input(
                    "How many of them",
                    1,
                    n,
                    n,
                    help=f"The first ones by the order: {plain(order)}.",
                )
                about += f", the first {first:,} by {order}" * (first < n)
            if st.form_submit_button("Save", type="primary"):
                report_change(
                    lambda: name_slice(workspace(), bundle, chosen, rows[:first], about),
                    f"Saved {first:,} samples as {plain(chosen.strip())}",
                )
    n_flagged = int(np.isin(flags_of(bundle)["row"], rows).sum())
    with st.popover(f"Flag these {n:,}", icon=":material/flag:", key=f"flag {key} {changes}"):
        with st.form(f"flag form {key} {changes}", border=False):
            reason = st.text_input("Reason", max_chars=200, placeholder="Why they are suspect")
            if st.form_submit_button("Flag", type="primary"):
                report_change(
                    lambda: flag_rows(workspace(), bundle, rows, reason),
                    f"Flagged {n:,} samples",
                )
        if n_flagged and st.button(
            f"Remove the flags of {n_flagged:,}", key=f"unflag {key} {changes}"
        ):
            report_change(
                lambda: unflag_rows(workspace(), bundle, rows),
                f"Removed the flags of {n_flagged:,} samples",
            )


def report_change(what: Callable[[], object], news: str) -> None:
    """Make a change to slices or flags and announce it on the new page; show its error."""

    def change() -> None:
        what()
        st.session_state["slice news"] = news
        st.session_state["slice changes"] += 1

    change_and_redraw(change)


def change_and_redraw(change: Callable[[], object]) -> None:
    """Make a change and draw the page again, or show the error that prevents it.

    Args:
        change: May raise `GsrError`.
    """
    try:
        change()
    except GsrError as error:
        show_error(error)
        return
    st.rerun()


def open_in_samples(bundle: Bundle, rows: np.ndarray, text: str) -> None:
    """Draw a link to Samples that shows these samples alone.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
        text: Label of the link.
    """
    link(
        "Samples",
        text,
        slice=save_slice(workspace(), bundle, rows),
        **dict.fromkeys(("group", "y", "prediction", "changed")),
    )


def ask_what_if(bundle: Bundle, rows: np.ndarray, key: str = "these") -> None:
    """Draw a button to the page that fits the run's head anew without these samples.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
        key: Identity on the page.
    """
    if st.button(
        "What if?",
        icon=":material/replay:",
        key=f"what if {key}",
        help="Fit the run's head anew without these samples, or with other weights or another "
        "class, and see what that does to each group.",
    ):
        # The set is written down only when it is asked for.
        nav.go("What if", slice=save_slice(workspace(), bundle, rows), rows=None)


def downloads(content: Callable[[], pd.DataFrame], *, label: str, name: str, key: str) -> None:
    """Offer a table as CSV and as parquet; it is built only when the user takes it.

    Args:
        content: Builds the table.
        label: Text of the buttons, before the kind of file.
        name: Name of the file, without its ending.
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
