"""Samples as cards, a page at a time."""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.data.bundle import SIMILARITY, Bundle
from gsr_core.views import navigation as nav
from gsr_core.views.charts import badge, percent, plain
from gsr_core.views.face import face
from gsr_core.views.slices import flags_of

__all__ = ["gallery"]


def gallery(
    bundle: Bundle,
    table: pd.DataFrame,
    order: np.ndarray | None = None,
    *,
    key: str,
    sizes: tuple[int, ...],
) -> None:
    """Draw samples as cards, a page at a time; a click focuses the sample on every page.

    Args:
        bundle: Where the images are.
        table: Rows of `sample_table`.
        order: (q,) positions in the table of the samples to show, in order; all if None.
        key: Identity on the page.
        sizes: Numbers of cards a page that the user may choose from.
    """
    rows = table["row"].to_numpy()
    order = np.arange(len(table)) if order is None else order
    rows, n = rows[order], len(order)
    with st.container(horizontal=True, vertical_alignment="center", key=f"{key} bar"):
        caption = st.empty()
        st.space("stretch")
        size = sizes[0]
        if len(sizes) > 1 and n > sizes[0]:
            size = st.segmented_control(
                "Samples a page",
                sizes,
                default=sizes[0],
                required=True,
                key=f"{key} size",
                label_visibility="collapsed",
            )
        pages = max(-(-n // size), 1)
        # A new set or order of samples gets a new key, and so begins on its first page.
        shown_set = zlib.crc32(rows.tobytes())
        page = st.pagination(pages, key=f"{key} page {size} {shown_set}") if pages > 1 else 1
    first = (page - 1) * size
    shown = table.iloc[order[first : first + size]]
    caption.caption(f"{first + 1:,}–{first + len(shown):,} of {n:,} samples")
    st.session_state["sample order"] = rows
    flags = flags_of(bundle).set_index("row")["reason"]
    with st.grid(min_column_width=136, gap="small"):
        for place, sample in enumerate(shown.to_dict("records")):
            with st.container(border=True, gap="xxsmall", key=f"{key} card {place}"):
                flag = flags.get(sample["row"], "")
                _card(bundle, sample, flag, key=f"{key} {sample['row']}")


def _card(bundle: Bundle, sample: dict, flag: str, *, key: str) -> None:
    classes = bundle.manifest.classes
    face(bundle, sample["row"], alt=f"sample {sample['sample_id']}, {sample['group']}")
    st.caption(plain(sample["group"]))
    if "weight" in sample:
        st.markdown(f"**{sample['weight']:.3g}×** weight")
    # A field without a value in this run, such as the difference from one that lacks the sample.
    if np.isfinite(difference := sample.get("difference", np.nan)):
        st.caption(f"{difference:+.3g}× against B")
    if SIMILARITY in sample:
        st.caption(f"similarity {sample[SIMILARITY]:.3f}")
    sure = f"{percent(sample['confidence'])} sure"
    if sample["correct"]:
        badge(f"right, {sure}", colour="green")
    else:
        badge(f"wrong, {sure}", colour="orange")
        # Not in the badge, which is cut off where a card is narrow.
        st.caption(f"taken for {plain(classes[sample['prediction']])}")
    if flag:
        badge("flagged", icon=":material/flag:", colour="red", about=flag)
    if st.button(plain(sample["sample_id"]), key=f"open {key}", type="tertiary"):
        nav.put(sample=sample["row"])
        st.rerun()
