"""Clusters on the Map page: find them, read them, and make something of them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from pydantic import TypeAdapter

from gsr_core.clusterings.describe import (
    cluster_table,
    clusters_as_bundle,
    describe_clusters,
    flag_outliers,
    strips,
)
from gsr_core.clusterings.edit import merge_clusters, rename_cluster
from gsr_core.clusterings.job import ClusterJob
from gsr_core.clusterings.request import (
    ClusteringRequest,
    looks_at_backbone,
    request_clustering,
    request_of_run,
)
from gsr_core.clusterings.store import UNASSIGNED, Clustering, list_clusterings, open_clustering
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.inference.base import OUTLIER
from gsr_core.inference.registry import INFERENCES, make_inference
from gsr_core.jobs.queue import start_job
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import percent, plain
from gsr_core.views.fields import field
from gsr_core.views.gallery import picture
from gsr_core.views.job_watch import needed_job
from gsr_core.views.map_chart import select_rows
from gsr_core.views.session import workspace
from gsr_core.views.slices import change_and_redraw, downloads, open_in_samples, save_and_flag

__all__ = ["choose_clustering", "cluster_panel", "find_clusters"]

_NONE = "none"
_OF_RUN = "of this run"
_STRIP = 8
"""Images at either end of a cluster."""
_MOST_STRIPS = 6
"""Clusters whose images are drawn while none is chosen."""


def choose_clustering(bundle: Bundle, run: Run) -> Clustering | None:
    """Draw the choice among the bundle's clusterings; None while there is none."""
    known = {each.name: each for each in list_clusterings(workspace(), bundle)}
    own = request_of_run(run)
    options = dict.fromkeys(known, "")
    labels = {name: each.label for name, each in known.items()}
    if own is not None and own.name not in known:
        options[own.name] = ""
        labels[own.name] = f"{run.config.method.upper()} {_OF_RUN}"
    if not options:
        return None
    chosen = nav.select(
        "clusters",
        "Clusters",
        [_NONE, *options],
        default=own.name if own is not None else _NONE,
        format_func=lambda name: labels.get(name, _NONE),
        width=240,
    )
    if own is not None and chosen == own.name and chosen not in known:
        if own != _asked(bundle):
            _watch(own)
        return None
    return known.get(chosen)


def find_clusters(bundle: Bundle, run: Run) -> None:
    """Draw the form that infers groups, and how far what was asked for is.

    Args:
        bundle: The data.
        run: Whose head can take the place of the backbone's.
    """
    asked = _asked(bundle)
    with st.expander("Find clusters", expanded=asked is not None, key="find clusters"):
        left, right = st.columns([2, 3], gap="large")
        with left:
            name = st.selectbox(
                "How",
                list(INFERENCES),
                format_func=lambda key: INFERENCES[key].title,
                key="cluster how",
                persist_state="session",
            )
            inference = INFERENCES[name]
            st.caption(f"{inference.summary} No group label is read.")
        schema = TypeAdapter(inference).json_schema()["properties"]
        defaults = inference()
        values: dict[str, Any] = {}
        with right:
            for column, key in zip(_columns(len(schema)), schema, strict=False):
                with column:
                    values[key] = field(
                        name, key, schema[key], getattr(defaults, key), form="cluster"
                    )
        changed = {key: each for key, each in values.items() if each != getattr(defaults, key)}
        try:
            uses_head = looks_at_backbone(make_inference(name, changed))
            of_run = uses_head and st.toggle(
                "Take this run's head for the backbone's own", value=True, key="cluster head"
            )
            request = request_clustering(
                workspace(), bundle, name, changed, run=run if of_run else None
            )
            st.caption(_memory(bundle, request))
        except GsrError as error:
            st.error(str(error))
            return
        if st.button(
            "Find clusters", type="primary", key="cluster start", icon=":material/scatter_plot:"
        ):
            _start(request)
            st.rerun()
        st.caption("The same from a terminal:")
        st.code(ClusterJob(request=request).command(workspace()), language="bash")
        if asked is not None:
            _watch(asked)


def _columns(count: int) -> list[Any]:
    """Return a place for each of some fields, three in a row."""
    return [place for _ in range(-(-count // 3)) for place in st.columns(3)]


def _memory(bundle: Bundle, request: ClusteringRequest) -> str:
    """Say how much memory a clustering will take, before it is started."""
    rows = bundle.rows_of[bundle.manifest.weighted_split]
    sizes = np.bincount(bundle.y[rows], minlength=len(bundle.manifest.classes))
    expected = request.inference_object().predicted_bytes(
        sizes.tolist(), bundle.manifest.n_features, len(sizes)
    )
    size = "little memory" if expected < 2**26 else f"about {expected / 2**30:.1f} GiB of memory"
    return f"Clusters the {len(rows):,} samples of {bundle.manifest.weighted_split} in {size}."


def _asked(bundle: Bundle) -> ClusteringRequest | None:
    """Return what this window asked for of a bundle and has not yet seen the end of."""
    asked = st.session_state.get("cluster asked")
    same = asked is not None and asked.bundle_digest == bundle.manifest.digest
    return asked if same else None


def _forget(request: ClusteringRequest) -> None:
    if st.session_state.get("cluster asked") == request:
        del st.session_state["cluster asked"]


def _start(request: ClusteringRequest) -> None:
    st.session_state["cluster asked"] = request
    start_job(workspace(), ClusterJob(request=request))


def _watch(request: ClusteringRequest) -> None:
    """Draw how far a clustering is; show it when it is there."""
    if (workspace().clusterings / request.name).exists():
        try:
            open_clustering(workspace(), request.name)
        except GsrError as error:
            st.error(str(error))
            return
        _forget(request)
        nav.put(clusters=request.name, colour="cluster")
        st.rerun()
    needed_job(
        ClusterJob(request=request),
        "The clusters could not be found",
        start=lambda: _start(request),
        dismiss=lambda: _forget(request),
    )


# The clusters ---------------------------------------------------------------------------------


def cluster_panel(
    clustering: Clustering,
    samples: pd.DataFrame,
    bundle: Bundle,
    split: str,
) -> None:
    """Draw the clusters of one split: what was chosen and why, a table, images, what to do.

    Args:
        clustering: Of the bundle.
        samples: `sample_table` of the split.
        bundle: The data.
        split: Whose samples these are.
    """
    record = clustering.record
    st.subheader(f"Clusters: {plain(clustering.label)}", anchor=False)
    choice = record.choice
    st.caption(
        f"{choice[:1].upper()}{choice[1:]}. {percent(record.outliers)} of the clustered samples "
        f"are outliers. The table is of {split}{_missing(clustering, samples)}."
    )
    _agreement(clustering)
    table = cluster_table(clustering, samples, bundle)
    chosen = _table(clustering, table, samples)
    _actions(clustering, samples, bundle, chosen)
    _strips(clustering, table, samples, bundle, chosen)
    with st.expander("What was tried"):
        st.dataframe(clustering.candidates(), hide_index=True, key="cluster candidates")


def _missing(clustering: Clustering, samples: pd.DataFrame) -> str:
    """Say how many samples the clustering did not look at, if there are any."""
    count = int((clustering.clusters_of(samples["row"].to_numpy()) == UNASSIGNED).sum())
    return f", without {count:,} samples that were not clustered" if count else ""


def _agreement(clustering: Clustering) -> None:
    """Draw how well the clusters agree with the true groups, where there are any."""
    agreed = clustering.record.agreement
    if agreed is None:
        st.caption("No sample here has a known group, so there is nothing to compare with.")
        return
    with st.container(horizontal=True):
        for name, key, said in (
            (
                "Adjusted Rand index",
                "ari",
                "Agreement of the clustered samples with their true groups, which were not looked "
                "at before: 0 is chance, 1 is perfect. Outliers count as a group of their own.",
            ),
            ("ARI without outliers", "ari_kept", "The same of the samples that are in a cluster."),
            ("Mutual information", "nmi", "Normalised: 0 says nothing, 1 says all."),
        ):
            value = agreed[key]
            st.metric(name, "–" if value is None else f"{value:.2f}", border=True, help=said)
    with st.expander("How well each true group was found"):
        st.caption("Of the clusters as they were found, before merging and renaming.")
        st.dataframe(
            pd.DataFrame(agreed["groups"]),
            hide_index=True,
            key="cluster agreement",
            column_config={
                name: st.column_config.NumberColumn(format="percent")
                for name in ("kept", "recall", "precision", "recall_kept", "precision_kept")
            },
        )


def _table(clustering: Clustering, table: pd.DataFrame, samples: pd.DataFrame) -> list[int]:
    """Draw the table; return the clusters chosen in it, which are then selected on the maps."""
    # Streamlit keeps the ticks of a key, so that other samples or clusters need another one.
    content = zlib.crc32(
        samples["row"].to_numpy().tobytes() + table["cluster"].to_numpy().tobytes()
    )
    key = f"cluster table {clustering.name} {clustering.stamp} {content}"

    def choose() -> None:
        picked = table["cluster"].iloc[st.session_state[key]["selection"]["rows"]]
        rows = samples["row"].to_numpy()
        select_rows(rows[np.isin(clustering.clusters_of(rows), picked)])

    shares = st.column_config.NumberColumn(format="percent")
    event = st.dataframe(
        table.drop(columns="cluster"),
        hide_index=True,
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
    st.caption("Choose rows to see their samples on the maps and to work with them.")
    return table["cluster"].iloc[event["selection"]["rows"]].tolist()


def _strips(
    clustering: Clustering,
    table: pd.DataFrame,
    samples: pd.DataFrame,
    bundle: Bundle,
    chosen: list[int],
) -> None:
    """Draw the most central and the most peripheral images of clusters."""
    if not bundle.has_images:
        return
    rows = samples["row"].to_numpy()
    names = table.set_index("cluster")["name"]
    worst = table.sort_values("accuracy", kind="stable")["cluster"].tolist()
    if not chosen and len(worst) > _MOST_STRIPS:
        st.caption(
            f"Images of the {_MOST_STRIPS} clusters with the lowest accuracy, of {len(worst)}."
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
                    _images(bundle, some, f"{names[cluster]}, {text}")
                    st.caption(text)


def _images(bundle: Bundle, rows: np.ndarray, said: str) -> None:
    found = [image for row in rows if (image := picture(bundle, int(row))) is not None]
    if found:
        st.image(found, width=48, alt=[f"{said}, {place + 1}" for place in range(len(found))])


def _actions(
    clustering: Clustering, samples: pd.DataFrame, bundle: Bundle, chosen: list[int]
) -> None:
    """Draw what can be done with the clusters chosen in the table, and with all of them."""
    names = {**clustering.names, OUTLIER: "outliers"}
    table = clustering.assigned()
    sizes = table["cluster"].value_counts()
    with st.container(horizontal=True, vertical_alignment="center", key="cluster actions"):
        if chosen:
            said = " + ".join(names[each] for each in chosen)
            here = table["row"].isin(samples["row"]) & table["cluster"].isin(chosen)
            open_in_samples(bundle, table.loc[here, "row"].to_numpy(), "Open in Samples")
            # With the samples of every split, so that every page has some of them.
            rows = table.loc[table["cluster"].isin(chosen), "row"].to_numpy()
            save_and_flag(
                bundle, rows, f"{said} of {clustering.label}, all splits", said, key="cluster"
            )
        kept = [each for each in chosen if each != OUTLIER]
        if len(kept) == 1:
            _rename(clustering, kept[0])
        if len(kept) == 2:
            one, other = sorted(kept, key=lambda each: -sizes.get(each, 0))
            if st.button(f"Merge into {plain(names[one])}", key="cluster merge"):
                change_and_redraw(lambda: merge_clusters(clustering, one, other))
        if OUTLIER in sizes and st.button(
            f"Flag the {sizes[OUTLIER]:,} outliers",
            key="cluster flag",
            icon=":material/flag:",
            help="Those of all splits go to the flag list, which Samples shows.",
        ):
            change_and_redraw(lambda: flag_outliers(clustering, bundle))
        _as_groups(clustering)
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
    with st.popover("Make them groups"):
        st.caption(
            "A new bundle of the same samples whose groups are these clusters: every method can "
            "then train with them, and every page shows them."
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
                    made = clusters_as_bundle(clustering, name.strip())
            except GsrError as error:
                st.error(plain(error))
                return
            nav.go("Setup", bundle=made.name, run=None, runs=None, clusters=None, slice=None)
