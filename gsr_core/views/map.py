"""Maps of samples, and what is selected on them.

What is selected is kept by `map_chart` and shared by all maps; the maps and what is shown of the
selection are one fragment, so that a lasso draws only them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.data.variation import make_variation
from gsr_core.figures import theme
from gsr_core.figures.scatter import MAX_DRAWN, MAX_DRAWN_3D, MAX_ON_TOP, Kind, point_map_3d
from gsr_core.gradients.maps import MapConfig, compute_map, load_map, map_config
from gsr_core.inference.base import OUTLIER
from gsr_core.jobs.maps import WhichHead, map_head, map_profile
from gsr_core.jobs.progress import read_job
from gsr_core.jobs.queue import start_job
from gsr_core.methods.fit import Status
from gsr_core.runs.clustering import Clustering
from gsr_core.runs.samples import INFLUENCE
from gsr_core.runs.slices import describe_rows
from gsr_core.runs.store import Run
from gsr_core.runs.summary import run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import colours_of, percent, plain, show, single_group
from gsr_core.views.clusters import choose_clustering
from gsr_core.views.frame import Frame
from gsr_core.views.gallery import gallery
from gsr_core.views.map_chart import drawn_note, drawn_rows, selectable_map, selected_rows
from gsr_core.views.session import load_samples, workspace
from gsr_core.views.slices import downloads, flags_of, open_in_samples, save_and_flag

__all__ = ["Looked", "choose_maps", "linked_maps"]

_AT_ONCE = 30_000
"""Samples whose PCA is computed while the page waits; that of more is the worker's."""

_MOST_VALUES = 20
"""Text of more values than this cannot be told apart by colour; numbers are a scale then."""

_SPACES = {
    "both": ("gradients", "features"),
    "gradients": ("gradients",),
    "features": ("features",),
    "logits": ("logits",),
    "influence": ("influence",),
}
_HEADS: dict[WhichHead, str] = {
    "run": "this run's",
    "backbone": "the backbone's",
    "refit": "a fitted ERM",
    "early": "an early-stopped",
}
_LAYOUTS = ("umap", "pca")


@dataclass(frozen=True)
class Looked:
    """What the page looks at.

    Attributes:
        bundle: The data.
        run: Whose head and weights.
        other: A run whose colours a second map has, or None.
        split: Whose samples.
        samples: `sample_table` of run and split, with more columns to colour by.
        clustering: Whose clusters, or None.
        colour: Column that colours the points.
        spaces: Spaces to draw.
        head: Whose gradients and logits.
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
        """What a selection is of."""
        config = self.run.config
        return f"{self.bundle.manifest.digest} {self.split} {config.seed} {config.variation}"


def choose_maps(page: Frame) -> Looked:
    """Draw the choices above the maps."""
    bundle, run = page.bundle, page.run
    assert run is not None
    manifest = bundle.manifest
    present = [split for split in SPLITS if split in manifest.split_sizes]
    with st.container(horizontal=True, vertical_alignment="bottom", key="map choices"):
        split = nav.select("split", "Split", present, default=run.values_split, width=120)
        clustering = choose_clustering(bundle, run)
        samples = _with_more(load_samples(run, split), bundle, clustering)
        kinds = _colourings(bundle, samples)
        left_out = [name for name in manifest.attributes if name not in kinds]
        colour = nav.select(
            "colour",
            "Colour",
            list(kinds),
            width=190,
            help=f"Without {', '.join(left_out)}: more than {_MOST_VALUES} values."
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
                _heads(bundle) if of_a_head else ["run"],
                format_func=lambda each: _HEADS[each],
                disabled=not of_a_head,
            )
            drawn_in = nav.select("dimensions", "Drawn in", ["2-D", "3-D"])
            others = {
                each.run_id: run_label(each.config)
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
    return Looked(
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
    """Return the spaces that there are: influence is of the rows that carry the weights."""
    found = list(_SPACES)
    if split != run.values_split or run.influence() is None:
        found.remove("influence")
    return found if map_head(bundle, run) is not None else ["features"]


def _which(head: str) -> WhichHead:
    return next((each for each in get_args(WhichHead) if each == head), "run")


def _heads(bundle: Bundle) -> list[str]:
    return [each for each in _HEADS if each != "backbone" or bundle.head is not None]


def _with_more(
    samples: pd.DataFrame, bundle: Bundle, clustering: Clustering | None
) -> pd.DataFrame:
    """Return the samples with their cluster, outlier scores and flags."""
    rows = samples["row"].to_numpy()
    more: dict[str, Any] = {}
    if clustering is not None:
        found = clustering.columns_of(rows)
        names = {**clustering.names, OUTLIER: "outlier"}
        more["cluster"] = found["cluster"].map(names).fillna("not clustered").to_numpy()
        more["gradient norm"] = found["gradient_norm"].to_numpy()
        more["isolated"] = found["isolated"].to_numpy()
    if len(flags := flags_of(bundle)):
        more["flagged"] = np.where(np.isin(rows, flags["row"]), "flagged", "not flagged")
    return samples.assign(**more)


def _colourings(bundle: Bundle, samples: pd.DataFrame) -> dict[str, Kind]:
    """Return what points can be coloured by, and the kind of each."""
    kinds: dict[str, Kind] = {"group": "category"}
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


# Maps -----------------------------------------------------------------------------------------


def linked_maps(looked: Looked) -> None:
    """Draw the maps, and the samples that are selected on them."""
    places = {space: _places(looked, space) for space in looked.spaces}
    there = {space: found for space, found in places.items() if found is not None}
    if not there:
        return
    if looked.colour == "group" and (looked.bundle.membership.sum(axis=1) > 1).any():
        st.caption("Groups overlap: a point in several has the colour of the rarest.")
    dense = looked.dimensions == 2 and len(looked.samples) > MAX_DRAWN
    limit = MAX_ON_TOP if dense else MAX_DRAWN if looked.dimensions == 2 else MAX_DRAWN_3D
    keep = _worth_keeping(looked, limit)
    shown = drawn_rows(looked.samples, limit, keep)
    kept = min(len(np.unique(keep)), limit)
    if note := drawn_note(len(shown), len(looked.samples), kept, on_image=dense):
        st.caption(note)

    @st.fragment
    def maps() -> None:
        chosen, focus = selected_rows(looked.scope), _focus(looked)
        drawings = _drawings(looked, there)
        for column, draw in zip(st.columns(len(drawings), gap="medium"), drawings, strict=True):
            with column:
                _map(looked, *draw, shown=shown, chosen=chosen, focus=focus)
        _selected(looked, chosen)

    maps()


def _drawings(
    looked: Looked, there: dict[str, tuple[pd.DataFrame, str]]
) -> list[tuple[str, str, pd.DataFrame, Run]]:
    """Return what to draw side by side: key, title, places and whose colours."""
    found = []
    for space, (places, method) in there.items():
        of = f" of {_HEADS[looked.head]} head" * (space in ("gradients", "logits"))
        title = f"**{space.capitalize()}**{of * (looked.head != 'run')}, {method.upper()}"
        if looked.other is None:
            found.append((f"map {space}", title, places, looked.run))
            continue
        for run in (looked.run, looked.other):
            said = f"{title}, coloured by {plain(run_label(run.config))}"
            found.append((f"map {space} {run.run_id}", said, places, run))
    return found


def _map(
    looked: Looked,
    key: str,
    title: str,
    places: pd.DataFrame,
    run: Run,
    *,
    shown: np.ndarray,
    chosen: np.ndarray,
    focus: int | None,
) -> None:
    """Draw one map."""
    samples = looked.samples
    if run is not looked.run:
        samples = _with_more(load_samples(run, looked.split), looked.bundle, looked.clustering)
    st.markdown(title)
    kind = _colourings(looked.bundle, samples).get(looked.colour)
    if kind is None:
        st.caption(f"{plain(run_label(run.config))} has no {looked.colour} to colour by.")
        return
    points, colours = _coloured(looked, samples, kind)
    # A map knows rows in its own order; the table's order is what `shown` speaks of.
    points = (
        places.set_index("row")
        .loc[points["row"]]
        .reset_index()
        .assign(**{name: points[name].to_numpy() for name in (looked.colour, "sample_id")})
    )
    alt = f"Map of {len(points):,} samples, coloured by {looked.colour}."
    style: dict[str, Any] = {"colour": looked.colour, "kind": kind, "colours": colours}
    if looked.dimensions == 3:
        figure = point_map_3d(points.iloc[shown], **style, chosen=chosen, focus=focus, revision=key)
        show(figure, key=key, alt=alt)
        return
    selectable_map(points, key=key, **style, chosen=chosen, focus=focus, on_top=shown, alt=alt)


def _coloured(
    looked: Looked, samples: pd.DataFrame, kind: Kind
) -> tuple[pd.DataFrame, dict[str, str] | None]:
    """Return the samples with the colour column as text or numbers, and colours that are fixed."""
    colour, bundle = looked.colour, looked.bundle
    if colour == "group":
        named = samples.assign(group=single_group(bundle, samples["row"].to_numpy()))
        return named, colours_of(bundle)
    if colour == "prediction":
        classes = dict(enumerate(bundle.manifest.classes))
        return samples.assign(prediction=samples["prediction"].map(classes)), None
    if colour == "right or wrong":
        said = samples["correct"].map({True: "right", False: "wrong"})
        return samples.assign(**{colour: said}), {"right": theme.UNKNOWN, "wrong": theme.ACCENT}
    if colour == "flagged":
        return samples, {"not flagged": theme.UNKNOWN, "flagged": theme.ACCENT}
    if colour == "inferred group":
        said = samples["inferred_group"].astype(str).replace(str(OUTLIER), "outlier")
        return samples.assign(**{colour: said}), None
    if colour == "cluster" and looked.clustering is not None:
        names = [*looked.clustering.names.values()]
        fixed = theme.group_colours(names)
        return samples, {**fixed, "outlier": theme.UNKNOWN, "not clustered": theme.UNKNOWN}
    if kind == "category":
        return samples.assign(**{colour: samples[colour].astype(str)}), None
    return samples, None


def _worth_keeping(looked: Looked, limit: int) -> np.ndarray:
    """Return the positions of samples to draw whatever else is: flagged, then extreme ones."""
    samples = looked.samples
    if len(samples) <= limit:
        return np.empty(0, dtype=np.int64)
    order = samples["weight" if "weight" in samples.columns else "loss"].argsort().to_numpy()
    flagged = np.flatnonzero(np.isin(samples["row"], flags_of(looked.bundle)["row"]))
    return np.concatenate([flagged, order[::-1][: limit // 20], order[: limit // 20]])


def _focus(looked: Looked) -> int | None:
    """Return the sample that is ringed: the one that is looked at, or was last."""
    chosen = nav.get("sample")
    if chosen.isdecimal() and len(chosen) <= 12:
        st.session_state["map focus"] = (looked.scope, int(chosen))
    scope, row = st.session_state.get("map focus", ("", -1))
    return row if scope == looked.scope else None


# Places ---------------------------------------------------------------------------------------


def _places(looked: Looked, space: str) -> tuple[pd.DataFrame, str] | None:
    """Return the places of the samples and how they were made; None while there are none.

    PCA is there at once, UMAP when the worker has it; PCA of many samples is the worker's too.
    """
    bundle, run, split = looked.bundle, looked.run, looked.split
    with st.spinner("Fitting the head", show_time=True):
        head = map_head(bundle, run, looked.head)
    profile = map_profile(run) if space == "influence" else None
    # A seed above 0 draws target and val anew from their union, which is then what is mapped.
    # So it is where the two share their rows.
    changed = run.config.seed or make_variation(run.config.variation).leak
    redrawn = changed and split in ("target", "val")
    wanted: dict[str, Any] = {
        "space": space,
        "profile": profile,
        "splits": ["target", "val"] if redrawn else [split],
        "dimensions": looked.dimensions,
    }
    many = len(looked.samples) > _AT_ONCE
    methods: tuple[Literal["umap", "pca"], ...] = (
        ("umap", "pca") if looked.layout == "umap" else ("pca",)
    )
    for method in methods:
        config = map_config(bundle, head, method=method, **wanted)
        found = load_map(workspace(), config)
        if found is not None:
            return found, method
        if method == "pca" and not many:
            with st.spinner("Computing PCA"):
                found = compute_map(workspace(), bundle, head, config, profile=profile)
                return found, "pca"
        _progress(looked, config, space, instead=method == "umap" and not many)
    return None


def _progress(looked: Looked, config: MapConfig, space: str, *, instead: bool) -> None:
    """Start the map's job, unless it failed, and draw how far it is.

    Args:
        looked: What the page looks at.
        config: The map.
        space: What it is a map of.
        instead: Whether PCA is shown until the map is there.
    """
    key, name = config.digest, f"{config.method.upper()} of the {space}"
    meanwhile = ". PCA is shown meanwhile." if instead else ""
    state = read_job(workspace(), "map", key)
    if state is not None and state.status is Status.FAILED:
        st.error(f"{name} failed: {state.text}")
        if not st.button("Try again", key=f"again {config.method} {space}"):
            return
    if state is None or not state.active:
        arguments = {
            "config": config.model_dump(mode="json"),
            "run_id": looked.run.run_id,
            "which": looked.head,
            "bundle": str(looked.bundle.path),
        }
        start_job(workspace(), "map", key, arguments)

    def watch() -> None:
        now = read_job(workspace(), "map", key)
        if now is None or not now.active:
            nav.refresh()
        st.progress(now.fraction, text=f"{name}: {now.text}{meanwhile}")

    st.fragment(watch, run_every=1.0)()


# What is selected -----------------------------------------------------------------------------


def _selected(looked: Looked, rows: np.ndarray) -> None:
    """Draw the samples that are selected: numbers, pictures, a table, and what to do with them."""
    if not len(rows):
        st.caption(
            "Nothing is selected. Draw a lasso around points to see their samples."
            if looked.dimensions == 2
            else "A map in space can be turned, not selected on; the plane can."
        )
        return
    samples, bundle = looked.samples, looked.bundle
    table = samples[samples["row"].isin(rows)]
    order = "rank" if "rank" in table.columns else "loss"
    table = table.sort_values(order, ascending=order == "rank")
    st.subheader(f"{len(table):,} selected", anchor=False)
    left, right = st.columns([3, 2], gap="large")
    with right:
        _statistics(looked, table)
    with left:
        how = st.segmented_control(
            "Show as",
            ["pictures", "table"],
            default="pictures",
            required=True,
            key="selected as",
            label_visibility="collapsed",
        )
        if how == "table":
            st.dataframe(table, hide_index=True, key="selected table")
        else:
            gallery(bundle, table, key="selected", sizes=(12,))
    with st.container(horizontal=True, vertical_alignment="center", key="selected actions"):
        open_in_samples(bundle, rows, "Open these in Samples")
        save_and_flag(bundle, rows, f"selected on the map of {looked.split}")
        downloads(
            lambda: describe_rows(bundle, rows),
            label="Selection as",
            name=f"{bundle.name}-selection",
            key="selection",
        )


def _statistics(looked: Looked, table: pd.DataFrame) -> None:
    """Draw how the selected samples differ from the others of the split."""
    samples = looked.samples

    def measured(part: pd.DataFrame) -> dict[str, float]:
        found = {"samples": len(part), "accuracy": part["correct"].mean()}
        found["mean loss, nats"] = part["loss"].mean()
        if "weight" in part.columns:
            found["mean weight"] = part["weight"].mean()
        return found

    inside, everything = measured(table), measured(samples)
    with st.container(horizontal=True):
        st.metric(
            "Right",
            percent(inside["accuracy"]),
            border=True,
            help=f"Of all samples of {looked.split}: {percent(everything['accuracy'])}.",
        )
        st.metric(
            "Mean loss",
            f"{inside['mean loss, nats']:.2g}",
            border=True,
            help=f"In nats. Of all: {everything['mean loss, nats']:.2g}.",
        )
        if "mean weight" in inside:
            st.metric(
                "Mean weight",
                f"{inside['mean weight']:.2g}×",
                border=True,
                help="Relative to an equal share.",
            )
    by = "cluster" if looked.colour == "cluster" else "group"
    counts = table[by].value_counts()
    total = samples[by].value_counts()
    st.dataframe(
        pd.DataFrame(
            {
                by: counts.index,
                "selected": counts.to_numpy(),
                "of all": (counts / total[counts.index]).to_numpy(),
                "right": table.groupby(by)["correct"].mean()[counts.index].to_numpy(),
            }
        ),
        hide_index=True,
        key=f"selected by {by}",
        column_config={
            "of all": st.column_config.NumberColumn(
                format="percent", help=f"Share of the {by}'s samples in {looked.split}."
            ),
            "right": st.column_config.NumberColumn(format="percent"),
        },
    )
