"""The clusters of a clustering on the Map page: a table, images, and what to do with them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.clusterings.describe import (
    cluster_table,
    clusters_as_bundle,
    describe_clusters,
    flag_outliers,
    strips,
)
from gsr_core.clusterings.edit import merge_clusters, rename_cluster
from gsr_core.clusterings.store import UNASSIGNED, Clustering
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.inference.base import OUTLIER
from gsr_core.views import navigation as nav
from gsr_core.views.charts import percent, plain, sentence, show_error, show_rows
from gsr_core.views.face import strip
from gsr_core.views.map_chart import select_rows
from gsr_core.views.phrases import in_words
from gsr_core.views.slices import change_and_redraw, downloads, open_in_samples, save_and_flag

__all__ = ["cluster_panel"]

_STRIP = 8
"""Images at either end of a cluster."""
_MOST_STRIPS = 6
"""Clusters whose images are drawn while none is chosen."""


def cluster_panel(
    clustering: Clustering,
    samples: pd.DataFrame,
    bundle: Bundle,
    split: str,
) -> None:
    """Draw the clusters of one split: the choice and its reason, a table, images, actions.

    Args:
        clustering: A clustering of the bundle.
        samples: `sample_table` of the split.
        bundle: The data.
        split: The split of these samples.
    """
    record = clustering.record
    st.subheader(f"Clusters: {plain(clustering.label)}", anchor=False)
    choice = record.choice
    st.caption(
        f"{sentence(choice)}. {percent(record.outliers)} of the clustered samples "
        f"are outliers. The table is of {split}{_missing(clustering, samples)}."
    )
    _agreement(clustering)
    table = cluster_table(clustering, samples, bundle)
    chosen = _table(clustering, table, samples)
    _actions(clustering, samples, bundle, chosen)
    _strips(clustering, table, samples, bundle, chosen)
    with st.expander("Settings that were tried"):
        show_rows(clustering.candidates(), key="cluster candidates")


def _missing(clustering: Clustering, samples: pd.DataFrame) -> str:
    """Say how many samples were not clustered, if there are any."""
    count = int((clustering.clusters_of(samples["row"].to_numpy()) == UNASSIGNED).sum())
    return f", without {count:,} samples that were not clustered" if count else ""


def _agreement(clustering: Clustering) -> None:
    """Draw how well the clusters agree with the true groups, where these are known."""
    agreement = clustering.record.agreement
    if agreement is None:
        st.caption("No sample here has a known group, so there is nothing to compare with.")
        return
    with st.container(horizontal=True):
        for name, key, help_text in (
            (
                "Adjusted Rand index",
                "ari",
                "Agreement of the clusters with the true groups, which the inference never reads: "
                "0 is chance, 1 is perfect. Outliers count as a group of their own.",
            ),
            ("ARI without outliers", "ari_kept", "The same for the samples in a cluster alone."),
            ("Mutual information", "nmi", "Normalised: 0 is no agreement, 1 is perfect."),
        ):
            value = agreement[key]
            st.metric(name, "–" if value is None else f"{value:.2f}", border=True, help=help_text)
    with st.expander("How well each true group was recovered"):
        st.caption("For the original clusters, before merging and renaming.")
        show_rows(
            pd.DataFrame(agreement["groups"]),
            key="cluster agreement",
            column_config={
                name: st.column_config.NumberColumn(format="percent")
                for name in ("kept", "recall", "precision", "recall_kept", "precision_kept")
            },
        )


def _table(clustering: Clustering, table: pd.DataFrame, samples: pd.DataFrame) -> list[int]:
    """Draw the table; return the clusters chosen in it, whose samples the maps then select."""
    # Streamlit keeps the ticks of a key, so other samples or clusters need another key.
    content = zlib.crc32(
        samples["row"].to_numpy().tobytes() + table["cluster"].to_numpy().tobytes()
    )
    key = f"cluster table {clustering.name} {clustering.stamp} {content}"

    def choose() -> None:
        clusters = table["cluster"].iloc[st.session_state[key]["selection"]["rows"]]
        rows = samples["row"].to_numpy()
        select_rows(rows[np.isin(clustering.clusters_of(rows), clusters)])

    shares = st.column_config.NumberColumn(format="percent")
    event = show_rows(
        table.drop(columns="cluster"),
        key=key,
        on_select=choose,
        selection_mode="multi-row",
        column_config={
            "name": st.column_config.TextColumn("cluster"),
            "size": st.column_config.NumberColumn("samples"),
            "share": shares,
            "majority": st.column_config.TextColumn("most are"),
            "purity": st.column_config.NumberColumn(
                format="percent", help="Share of the cluster that is in that group."
            ),
            "accuracy": shares,
            "loss": st.column_config.NumberColumn("mean loss, nats", format="%.3g"),
            "weight": st.column_config.NumberColumn(
                "mean weight", format="%.2f×", help="Relative to an equal share."
            ),
            "worst_errors": st.column_config.NumberColumn(
                "of the worst group's errors",
                format="percent",
                help="Share of the worst group's wrong samples that are in the cluster.",
            ),
        },
    )
    st.caption("Choose rows to select their samples on the maps and to work with them.")
    return table["cluster"].iloc[event["selection"]["rows"]].tolist()


def _strips(
    clustering: Clustering,
    table: pd.DataFrame,
    samples: pd.DataFrame,
    bundle: Bundle,
    chosen: list[int],
) -> None:
    """Draw the most central and the most peripheral samples of clusters."""
    rows = samples["row"].to_numpy()
    names = table.set_index("cluster")["name"]
    worst = table.sort_values("accuracy", kind="stable")["cluster"].tolist()
    if not chosen and len(worst) > _MOST_STRIPS:
        st.caption(
            f"Samples of the {_MOST_STRIPS} clusters with the lowest accuracy, of {len(worst)}."
        )
    for cluster in chosen or worst[:_MOST_STRIPS]:
        near, far = strips(clustering, cluster, rows, _STRIP)
        first, last = ("in the middle", "at the edge")
        if cluster == OUTLIER:
            first, last = ("strongest gradients", "weakest gradients")
        with st.container(gap="xxsmall", key=f"cluster strip {cluster}"):
            st.markdown(f"**{plain(names[cluster])}**")
            left, right = st.columns(2)
            for column, some, text in ((left, near, first), (right, far, last)):
                with column:
                    strip(bundle, some, f"{names[cluster]}, {text}", width=48)
                    st.caption(text)


def _actions(
    clustering: Clustering, samples: pd.DataFrame, bundle: Bundle, chosen: list[int]
) -> None:
    """Draw the actions on the clusters chosen in the table, and on all of them."""
    names = {**clustering.names, OUTLIER: "outliers"}
    table = clustering.assigned()
    sizes = table["cluster"].value_counts()
    with st.container(horizontal=True, vertical_alignment="center", key="cluster actions"):
        if chosen:
            title = " + ".join(names[each] for each in chosen)
            here = table["row"].isin(samples["row"]) & table["cluster"].isin(chosen)
            open_in_samples(bundle, table.loc[here, "row"].to_numpy(), "Open in Samples")
            # Samples of every split, so that every page has some.
            rows = table.loc[table["cluster"].isin(chosen), "row"].to_numpy()
            save_and_flag(
                bundle, rows, f"{title} of {clustering.label}, all splits", title, key="cluster"
            )
        without_outliers = [each for each in chosen if each != OUTLIER]
        if len(without_outliers) == 1:
            _rename(clustering, without_outliers[0])
        if len(without_outliers) == 2:
            one, other = sorted(without_outliers, key=lambda each: -sizes.get(each, 0))
            if st.button(f"Merge into {plain(names[one])}", key="cluster merge"):
                change_and_redraw(lambda: merge_clusters(clustering, one, other))
        if OUTLIER in sizes and st.button(
            f"Flag the {sizes[OUTLIER]:,} outliers",
            key="cluster flag",
            icon=":material/flag:",
            help="In all splits. Samples shows the flags.",
        ):
            change_and_redraw(lambda: flag_outliers(clustering, bundle))
        _as_groups(clustering)
        shown = samples["row"].to_numpy()
        of = clustering.clusters_of(shown)
        in_words(bundle, {name: shown[of == key] for key, name in clustering.names.items()}, shown)
        downloads(
            lambda: describe_clusters(clustering, bundle),
            label="All clusters as",
            name=f"{bundle.name}-{clustering.name}",
            key="clusters",
        )


def _rename(clustering: Clustering, cluster: int) -> None:
    with st.popover("Rename"):
        name = st.text_input(
            "New name", value=clustering.names[cluster], key=f"cluster name {cluster}"
        )
        if st.button("Rename", key="cluster rename"):
            change_and_redraw(lambda: rename_cluster(clustering, cluster, name))


def _as_groups(clustering: Clustering) -> None:
    with st.popover("Make clusters the groups"):
        st.caption(
            "A new bundle of the same samples, with these clusters as its groups: every method can "
            "train with them, and every page shows them."
        )
        request = clustering.record.request
        name = st.text_input(
            "Name of the bundle",
            value=f"{Path(request.bundle).name}-{request.inference}",
            key="cluster bundle",
        )
        if st.button("Make the bundle", key="cluster bundle make"):
            try:
                with st.spinner("Writing the bundle"):
                    new = clusters_as_bundle(clustering, name.strip())
            except GsrError as error:
                show_error(error)
                return
            nav.go("Setup", bundle=new.name, run=None, runs=None, clusters=None, slice=None)
