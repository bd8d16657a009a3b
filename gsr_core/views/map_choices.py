"""The choices above the maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.clusterings.store import Clustering
from gsr_core.data.bundle import SIMILARITY, SPLITS, Bundle
from gsr_core.figures.inks import Kind
from gsr_core.inference.base import OUTLIER
from gsr_core.maps.heads import WhichHead, map_head
from gsr_core.runs.samples import INFLUENCE
from gsr_core.runs.store import Run
from gsr_core.runs.summary import run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain
from gsr_core.views.clusters import choose_clustering
from gsr_core.views.frame import Frame, link
from gsr_core.views.loading import load_samples
from gsr_core.views.phrases import with_similarity
from gsr_core.views.slices import flags_of

__all__ = ["HEADS", "MapView", "choose_maps", "colourings", "with_more"]


_MOST_VALUES = 20
"""With more values than this, colours cannot be told apart; numbers then become a scale."""

_SPACES = {
    "both": ("gradients", "features"),
    "gradients": ("gradients",),
    "features": ("features",),
    "logits": ("logits",),
    "influence": ("influence",),
}

HEADS: dict[WhichHead, str] = {
    "run": "this run's",
    "backbone": "the backbone's",
    "refit": "a fitted ERM",
    "early": "an early-stopped",
}

_LAYOUTS = ("umap", "pca")


@dataclass(frozen=True)
class MapView:
    """What the maps show.

    Attributes:
        bundle: The data.
        run: The run whose head and weights are used.
        other: A run that colours a second map, or None.
        split: The split of the samples.
        samples: `sample_table` of run and split, with more columns to colour by.
        clustering: The clustering whose clusters can be shown, or None.
        colour: Column that colours the points.
        spaces: Spaces to draw.
        head: The head whose gradients and logits are drawn.
        layout: `umap` or `pca`.
        dimensions: 2 or 3.
    """

    bundle: Bundle
    run: Run
    other: Run | None
    split: str
    samples: pd.DataFrame
    clustering: Clustering | None
    colour: str
    spaces: tuple[str, ...]
    head: WhichHead
    layout: str
    dimensions: Literal[2, 3]

    @property
    def scope(self) -> str:
        """Identity of the samples that a selection is of."""
        config = self.run.config
        return f"{self.bundle.manifest.digest} {self.split} {config.seed} {config.variation}"


def choose_maps(page: Frame) -> MapView:
    """Draw the choices above the maps; return the view that they make."""
    bundle, run = page.bundle, page.run
    assert run is not None
    manifest = bundle.manifest
    present = [split for split in SPLITS if split in manifest.split_sizes]
    with st.container(horizontal=True, vertical_alignment="bottom", key="map choices"):
        split = nav.select("split", "Split", present, default=run.values_split, width=120)
        clustering = choose_clustering(bundle, run)
        samples = with_similarity(bundle, with_more(load_samples(run, split), bundle, clustering))
        kinds = colourings(bundle, samples)
        left_out = [name for name in manifest.attributes if name not in kinds]
        colour = nav.select(
            "colour",
            "Colour",
            list(kinds),
            # Who types a phrase wants to see where it is.
            default=SIMILARITY if SIMILARITY in kinds else None,
            width=190,
            help=f"Without {plain(', '.join(left_out))}: more than {_MOST_VALUES} values."
            if left_out
            else None,
        )
        space = nav.select("space", "Space", _spaces(bundle, run, split), width=130)
        layout = nav.select("layout", "Layout", _LAYOUTS, format_func=str.upper, width=105)
        with st.popover("More", icon=":material/tune:"):
            of_a_head = space not in ("features", "influence")
            head = nav.select(
                "head",
                "Head whose gradients and logits are drawn",
                _heads(bundle, run) if of_a_head else ["run"],
                format_func=lambda each: HEADS[each],
                disabled=not of_a_head,
            )
            drawn_in = nav.select("dimensions", "Drawn in", ["2-D", "3-D"])
            others = {
                each.run_id: run_label(each)
                for each in page.ended
                if each.run_id != run.run_id
                and (each.config.seed, each.config.variation)
                == (run.config.seed, run.config.variation)
            }
            other = nav.select(
                "other",
                "The same map with the colours of another run",
                ["", *others],
                format_func=lambda run_id: others.get(run_id, "none"),
            )
        if SIMILARITY in samples:
            phrase = nav.get("phrase")
            link("Samples", "Ranked by the phrase", split=split, phrase=phrase, sort=None)
    return MapView(
        bundle=bundle,
        run=run,
        other=next((each for each in page.ended if each.run_id == other), None),
        split=split,
        samples=samples,
        clustering=clustering,
        colour=colour,
        spaces=_SPACES[space],
        head=_which(head),
        layout=layout,
        dimensions=3 if drawn_in == "3-D" else 2,
    )


def _spaces(bundle: Bundle, run: Run, split: str) -> list[str]:
    """Return the spaces on offer: only rows that carry the weights have influence."""
    spaces = list(_SPACES)
    if split != run.values_split or run.influence() is None:
        spaces.remove("influence")
    return spaces if map_head(bundle, run) is not None else ["features"]


def _which(head: str) -> WhichHead:
    return next((each for each in get_args(WhichHead) if each == head), "run")


def _heads(bundle: Bundle, run: Run) -> list[str]:
    if run.features_file.exists():
        return ["run"]
    return [each for each in HEADS if each != "backbone" or bundle.head is not None]


def with_more(samples: pd.DataFrame, bundle: Bundle, clustering: Clustering | None) -> pd.DataFrame:
    """Return the samples with their cluster, outlier scores and flags."""
    rows = samples["row"].to_numpy()
    more: dict[str, Any] = {}
    if clustering is not None:
        columns = clustering.columns_of(rows)
        names = {**clustering.names, OUTLIER: "outlier"}
        more["cluster"] = columns["cluster"].map(names).fillna("not clustered").to_numpy()
        more["gradient norm"] = columns["gradient_norm"].to_numpy()
        more["isolated"] = columns["isolated"].to_numpy()
    if len(flags := flags_of(bundle)):
        more["flagged"] = np.where(np.isin(rows, flags["row"]), "flagged", "not flagged")
    return samples.assign(**more)


def colourings(bundle: Bundle, samples: pd.DataFrame) -> dict[str, Kind]:
    """Return the columns that can colour points, and the kind of each."""
    kinds: dict[str, Kind] = {"group": "category"}
    if SIMILARITY in samples.columns:
        kinds[SIMILARITY] = "value"
    if "cluster" in samples.columns:
        kinds["cluster"] = "category"
    if "weight" in samples.columns:
        kinds["weight"] = "value"
    if "inferred_group" in samples.columns:
        kinds["inferred group"] = "category"
    kinds |= {"loss": "value", "prediction": "category", "right or wrong": "category"}
    kinds |= {name: "value" for name in ("gradient norm", "isolated") if name in samples.columns}
    if "flagged" in samples.columns:
        kinds["flagged"] = "category"
    for name in bundle.manifest.attributes:
        if name in kinds:
            continue
        if samples[name].nunique() <= _MOST_VALUES:
            kinds[name] = "category"
        elif pd.api.types.is_numeric_dtype(samples[name]):
            kinds[name] = "value"
    for column in samples.columns:
        if column.startswith(INFLUENCE):
            kinds[column] = "signed"
    return kinds
