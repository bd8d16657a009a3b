"""The slices and flags of a bundle on the Samples page: renaming, deleting and downloads."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from gsr_core.curation.slices import NAME_LENGTH, Slice, delete_slice, rename_slice
from gsr_core.curation.tables import describe_flags, describe_rows
from gsr_core.data.bundle import Bundle
from gsr_core.views.charts import plain, show_rows
from gsr_core.views.session import workspace
from gsr_core.views.slices import NO_SLICE, downloads, flags_of, report_change, slices_of

__all__ = ["manage_slices"]


def manage_slices(bundle: Bundle) -> None:
    """Draw the bundle's slices and flags, with renaming, deleting and downloads."""
    with st.expander("Slices and flags of this bundle", icon=":material/bookmarks:", key="slices"):
        slices = slices_of(bundle)
        if not slices:
            st.caption(NO_SLICE)
        else:
            _table(bundle, slices)
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


def _table(bundle: Bundle, slices: Sequence[Slice]) -> None:
    show_rows(
        {
            "slice": [each.name for each in slices],
            "samples": [len(each.rows) for each in slices],
            "from": [each.about for each in slices],
            "saved": pd.to_datetime([each.created for each in slices]),
        },
        column_config={
            "slice": st.column_config.Column(width="medium", pinned=True),
            "from": st.column_config.Column(width="large"),
            "saved": st.column_config.DatetimeColumn(format="D MMM HH:mm"),
        },
    )
    by_name = {each.name: each for each in slices}
    changes = st.session_state.setdefault("slice changes", 0)
    with st.container(horizontal=True, vertical_alignment="bottom", key="slice tools"):
        chosen = by_name[st.selectbox("Slice to change", list(by_name), key="own slice", width=240)]
        with (
            st.popover("Rename", icon=":material/edit:", key=f"rename {changes}"),
            st.form(f"rename form {chosen.name} {changes}", border=False),
        ):
            new = st.text_input("New name", value=chosen.name, max_chars=NAME_LENGTH)
            if st.form_submit_button("Rename the slice", type="primary"):
                report_change(
                    lambda: rename_slice(workspace(), bundle, chosen.name, new),
                    f"Renamed to {plain(new.strip())}",
                )
        with st.popover("Delete", icon=":material/delete:", key=f"delete {changes}"):
            st.caption(f"{plain(chosen.name)}: only the name goes, the samples stay.")
            if st.button("Delete the slice", type="primary", key=f"delete slice {changes}"):
                report_change(
                    lambda: delete_slice(workspace(), bundle, chosen.name),
                    f"Deleted {plain(chosen.name)}",
                )
        downloads(
            lambda: describe_rows(bundle, chosen.rows, slice=chosen.name),
            label="Slice as",
            name=f"{bundle.name}-slice-{chosen.key}",
            key="slice",
        )
