"""Clusterings on the Map page: choose one, or start one and follow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st
from pydantic import TypeAdapter

from gsr_core.clusterings.job import ClusterJob
from gsr_core.clusterings.request import (
    ClusteringRequest,
    looks_at_backbone,
    request_clustering,
    request_of_run,
)
from gsr_core.clusterings.store import Clustering, list_clusterings, open_clustering
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.inference.registry import INFERENCES, make_inference
from gsr_core.jobs.queue import start_job
from gsr_core.names import method_label
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import show_error
from gsr_core.views.fields import field
from gsr_core.views.job_watch import needed_job
from gsr_core.views.session import workspace

__all__ = ["choose_clustering", "find_clusters"]

_NONE = "none"
_OF_RUN = "of this run"


def choose_clustering(bundle: Bundle, run: Run) -> Clustering | None:
    """Draw the choice among the bundle's clusterings and return it; None if none is chosen."""
    known = {each.name: each for each in list_clusterings(workspace(), bundle)}
    own = request_of_run(run)
    options = dict.fromkeys(known, "")
    labels = {name: each.label for name, each in known.items()}
    if own is not None and own.name not in known:
        options[own.name] = ""
        labels[own.name] = f"{method_label(run.config.method)} {_OF_RUN}"
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
    """Draw the form that infers groups, and the progress of an inference under way.

    Args:
        bundle: The data.
        run: The run whose head can take the place of the backbone's.
    """
    under_way = _asked(bundle)
    with st.expander("Find clusters", expanded=under_way is not None, key="find clusters"):
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
                "Use this run's head instead of the backbone's", value=True, key="cluster head"
            )
            request = request_clustering(
                workspace(), bundle, name, changed, run=run if of_run else None
            )
            st.caption(_memory(bundle, request))
        except GsrError as error:
            show_error(error)
            return
        if st.button(
            "Find clusters", type="primary", key="cluster start", icon=":material/scatter_plot:"
        ):
            _start(request)
            st.rerun()
        st.caption("The same from a terminal:")
        st.code(ClusterJob(request=request).command(workspace()), language="bash")
        if under_way is not None:
            _watch(under_way)


def _columns(count: int) -> list[Any]:
    """Return a column for each of some fields, three in a row."""
    return [column for _ in range(-(-count // 3)) for column in st.columns(3)]


def _memory(bundle: Bundle, request: ClusteringRequest) -> str:
    """Return a sentence on how many samples a clustering takes, and how much memory."""
    rows = bundle.rows_of[bundle.manifest.weighted_split]
    sizes = np.bincount(bundle.y[rows], minlength=len(bundle.manifest.classes))
    expected = request.inference_object().predicted_bytes(
        sizes.tolist(), bundle.manifest.n_features, len(sizes)
    )
    size = "little memory" if expected < 2**26 else f"about {expected / 2**30:.1f} GiB of memory"
    return f"Clusters the {len(rows):,} samples of {bundle.manifest.weighted_split} in {size}."


def _asked(bundle: Bundle) -> ClusteringRequest | None:
    """Return the clustering of a bundle that this window started and that has not ended."""
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
    """Draw the progress of a clustering; show the clustering once it is there."""
    if (workspace().clusterings / request.name).exists():
        try:
            open_clustering(workspace(), request.name)
        except GsrError as error:
            show_error(error)
            return
        _forget(request)
        nav.put(clusters=request.name, colour="cluster")
        st.rerun()
    needed_job(
        ClusterJob(request=request),
        "The clustering failed",
        start=lambda: _start(request),
        dismiss=lambda: _forget(request),
    )
