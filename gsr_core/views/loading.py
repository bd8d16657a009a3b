"""What pages show of bundles and runs, cached by identity and never by content.

Streamlit hashes a sample of a large array, so that a changed one may get a stale entry; every
key here is a name, a digest or a file's time stamp instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
import torch

from gsr_core.clusterings.describe import cluster_subsets
from gsr_core.clusterings.store import Clustering, list_clusterings
from gsr_core.comparing.bootstrap import Bootstrap, bootstrap_entries
from gsr_core.comparing.entries import Entry
from gsr_core.comparing.operating import OperatingPoints, operating_points
from gsr_core.comparing.radar import Radar, radar
from gsr_core.comparing.scores import outcome
from gsr_core.comparing.thresholds import Thresholds, thresholds_of
from gsr_core.curation.accuracy import accuracies_on
from gsr_core.curation.slices import Slice
from gsr_core.data.bundle import Bundle
from gsr_core.fairness import Fairness
from gsr_core.gradients.graph import NeighbourGraph
from gsr_core.gradients.neighbours import nearest
from gsr_core.gradients.representations import CentredGradients, gradients
from gsr_core.ingest.reopen import source_of
from gsr_core.looking.looker import ImageLook, Looker, TextLook, look, network_key, open_looker
from gsr_core.looking.measure import Overlaps, measure_overlaps
from gsr_core.looking.regions import region_columns
from gsr_core.maps.compute import load_map, map_path
from gsr_core.maps.config import MapConfig, map_config
from gsr_core.maps.graphs import graph_path, read_graph
from gsr_core.maps.heads import map_head
from gsr_core.maps.rows import map_rows
from gsr_core.phrases.embed import embed_phrases
from gsr_core.phrases.search import similarities
from gsr_core.phrases.vocabulary import name_sets, phrase_similarities, phrases_of
from gsr_core.runs.cautions import cautions
from gsr_core.runs.quality import fairness_of, quality_table, reliability_table
from gsr_core.runs.reliance import reliance_table
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import Run
from gsr_core.scanning.measured import can_be_measured, load_measured, measured_file
from gsr_core.scanning.scan import Scan, scan
from gsr_core.views.session import load_bundle, workspace
from gsr_core.what_if.refits import Refits, open_refits
from gsr_core.workspace import Workspace

__all__ = [
    "load_accuracies",
    "load_bootstrap",
    "load_cautions",
    "load_fairness",
    "load_history",
    "load_look",
    "load_names",
    "load_neighbours",
    "load_operating",
    "load_outcome",
    "load_overlaps",
    "load_phrase_similarities",
    "load_places",
    "load_properties",
    "load_quality",
    "load_radar",
    "load_refits",
    "load_region_columns",
    "load_reliability",
    "load_reliance",
    "load_samples",
    "load_scan",
    "load_search",
    "load_similarity",
    "load_thresholds",
    "load_values",
    "load_weight_paths",
    "load_weights_at",
]

_PATIENCE = 120.0
"""Seconds that a page may look at samples."""


def load_history(run: Run) -> pd.DataFrame:
    """Return a run's history as it is on disk now. Not to be changed."""
    return _history(str(run.path), _stamp(run.path / "metrics.parquet"))


@st.cache_resource(max_entries=64, show_spinner=False)
def _history(path: str, stamp: int) -> pd.DataFrame:
    return _run(path).metrics()


def load_outcome(run: Run, split: str) -> tuple[dict[str, float], pd.DataFrame]:
    """Return `comparing.scores.outcome` of a run that has ended. Not to be changed."""
    return _outcome(str(run.path), split, _stamp(run.path / "metrics.parquet"))


@st.cache_resource(max_entries=1024, show_spinner=False)
def _outcome(path: str, split: str, stamp: int) -> tuple[dict[str, float], pd.DataFrame]:
    return outcome(_run(path), split)


def load_samples(run: Run, split: str) -> pd.DataFrame:
    """Return `sample_table` of a run that has ended. Not to be changed."""
    # `gsr influence` may add that of the kept step later.
    influence = run.influence_file(run.state.best_step)
    stamps = _stamp(run.head_file), _stamp(influence)
    return _samples(str(run.path), split, stamps)


@st.cache_resource(max_entries=16, show_spinner=False)
def _samples(path: str, split: str, stamps: tuple[int, int]) -> pd.DataFrame:
    run = _run(path)
    return sample_table(run, split, load_bundle(run.config.bundle))


def load_quality(run: Run, split: str) -> pd.DataFrame:
    """Return `quality_table` of a run that has ended. Not to be changed."""
    return _quality(str(run.path), split, _stamp(run.path / "head.safetensors"))


@st.cache_resource(max_entries=64, show_spinner="Measuring calibration and ranking")
def _quality(path: str, split: str, stamp: int) -> pd.DataFrame:
    run = _run(path)
    return quality_table(run, split, load_bundle(run.config.bundle))


def load_reliability(run: Run, split: str) -> pd.DataFrame:
    """Return `reliability_table` of a run that has ended. Not to be changed."""
    return _reliability(str(run.path), split, _stamp(run.path / "head.safetensors"))


@st.cache_resource(max_entries=64, show_spinner="Drawing what a calibrated head would show")
def _reliability(path: str, split: str, stamp: int) -> pd.DataFrame:
    run = _run(path)
    return reliability_table(run, split, load_bundle(run.config.bundle))


def load_fairness(run: Run, split: str, attribute: str) -> Fairness:
    """Return `fairness_of` a run that has ended. Not to be changed."""
    return _fairness(str(run.path), split, attribute, _stamp(run.path / "head.safetensors"))


@st.cache_resource(max_entries=64, show_spinner="Drawing samples anew")
def _fairness(path: str, split: str, attribute: str, stamp: int) -> Fairness:
    run = _run(path)
    return fairness_of(run, split, attribute, load_bundle(run.config.bundle))


def load_operating(run: Run, split: str, trade: float, average: str) -> OperatingPoints:
    """Return `operating_points` of a run that has ended. Not to be changed."""
    return _operating(str(run.path), split, trade, average, _stamp(run.path / "head.safetensors"))


@st.cache_resource(max_entries=256, show_spinner="Looking for offsets on val")
def _operating(path: str, split: str, trade: float, average: str, stamp: int) -> OperatingPoints:
    run = _run(path)
    bundle = load_bundle(run.config.bundle)
    return operating_points(run, split, bundle, trade=trade, average=average)


def load_thresholds(run: Run, split: str, cost: float) -> Thresholds:
    """Return `thresholds_of` a run that has ended. Not to be changed."""
    return _thresholds(str(run.path), split, cost, _stamp(run.path / "head.safetensors"))


@st.cache_resource(max_entries=256, show_spinner=False)
def _thresholds(path: str, split: str, cost: float, stamp: int) -> Thresholds:
    run = _run(path)
    return thresholds_of(run, split, load_bundle(run.config.bundle), cost=cost)


def load_cautions(run: Run) -> list[str]:
    """Return `cautions` of a run that has ended. Not to be changed."""
    return _cautions(str(run.path), _stamp(run.path / "head.safetensors"))


@st.cache_resource(max_entries=1024, show_spinner=False)
def _cautions(path: str, stamp: int) -> list[str]:
    run = _run(path)
    return cautions(run, load_bundle(run.config.bundle))


def load_accuracies(run: Run, split: str, slices: Sequence[Slice], bundle: Bundle) -> pd.DataFrame:
    """Return `curation.accuracy.accuracies_on` of a run that has ended. Not to be changed."""
    named = tuple((each.name, each.key) for each in slices)
    return _accuracies(
        str(run.path), split, named, _stamp(run.path / "head.safetensors"), slices, bundle
    )


@st.cache_resource(max_entries=1024, show_spinner=False)
def _accuracies(
    path: str,
    split: str,
    named: tuple[tuple[str, str], ...],
    stamp: int,
    _slices: Sequence[Slice],
    _bundle: Bundle,
) -> pd.DataFrame:
    return accuracies_on(_run(path), split, _slices, _bundle)


def load_refits(run: Run) -> Refits:
    """Return `what_if.refits.open_refits` of a run that has ended. Not to be changed."""
    return _refits(str(run.path), _stamp(run.path / "head.safetensors"))


@st.cache_resource(max_entries=4, show_spinner="Fitting the run's head")
def _refits(path: str, stamp: int) -> Refits:
    run = _run(path)
    return open_refits(run, load_bundle(run.config.bundle))


def load_bootstrap(entry: Entry, reference: Entry, bundle: Bundle) -> dict[str, Bootstrap]:
    """Return `comparing.bootstrap.bootstrap_entries`. Not to be changed."""
    return _bootstrap(_heads(entry), _heads(reference), entry, reference, bundle)


def _heads(entry: Entry) -> tuple[tuple[str, int], ...]:
    return tuple((str(run.path), _stamp(run.path / "head.safetensors")) for run in entry.runs)


@st.cache_resource(max_entries=1024, show_spinner="Drawing test samples anew")
def _bootstrap(
    named: tuple[tuple[str, int], ...],
    against: tuple[tuple[str, int], ...],
    _entry: Entry,
    _reference: Entry,
    _bundle: Bundle,
) -> dict[str, Bootstrap]:
    del named, against
    return bootstrap_entries(_entry, _reference, _bundle)


def load_radar(one: Run, two: Run, slices: Sequence[Slice], bundle: Bundle) -> Radar:
    """Return `comparing.radar.radar` of two runs, with all clusterings. Not to be changed."""
    clusterings = list_clusterings(workspace(), bundle)
    runs = tuple((str(run.path), _stamp(run.head_file)) for run in (one, two))
    looked_at = (
        *((each.name, each.key) for each in slices),
        *((each.name, str(each.stamp)) for each in clusterings),
    )
    return _radar(runs, looked_at, bundle.manifest.digest, clusterings, bundle)


@st.cache_resource(max_entries=32, show_spinner="Looking for what broke")
def _radar(
    runs: tuple[tuple[str, int], ...],
    looked_at: tuple[tuple[str, str], ...],
    digest: str,
    _clusterings: Sequence[Clustering],
    _bundle: Bundle,
) -> Radar:
    del looked_at, digest
    one, two = (_run(path) for path, _ in runs)
    clusters = cluster_subsets(_clusterings, np.sort(one.rows_of("test", _bundle)))
    return radar(one, two, clusters, read=load_samples)


def load_reliance(one: Run, two: Run, bundle: Bundle, most: int) -> pd.DataFrame:
    """Return `runs.reliance.reliance_table` of two runs on test. Not to be changed."""
    runs = tuple((str(run.path), _stamp(run.head_file)) for run in (one, two))
    return _reliance(runs, bundle.manifest.digest, most, bundle)


@st.cache_resource(max_entries=32, show_spinner="Measuring what the heads lean on")
def _reliance(
    runs: tuple[tuple[str, int], ...], digest: str, most: int, _bundle: Bundle
) -> pd.DataFrame:
    del digest
    return reliance_table([_run(path) for path, _ in runs], bundle=_bundle, most=most)


def load_properties(bundle: Bundle) -> pd.DataFrame | None:
    """Return `scanning.measured.load_measured`. Not to be changed."""
    place = workspace()
    if not can_be_measured(bundle):
        return None
    file = _properties_file(str(place.root), bundle.manifest.digest, bundle)
    return _properties(str(file), _stamp(file), bundle)


@st.cache_resource(max_entries=8, show_spinner=False)
def _properties_file(root: str, digest: str, _bundle: Bundle) -> Path:
    return measured_file(Workspace(Path(root)), _bundle)


@st.cache_resource(max_entries=8, show_spinner=False)
def _properties(file: str, stamp: int, _bundle: Bundle) -> pd.DataFrame | None:
    return load_measured(workspace(), _bundle)


def load_phrase_similarities(bundle: Bundle, typed: str) -> pd.DataFrame:
    """Return `phrases.vocabulary.phrase_similarities`. Not to be changed.

    Args:
        bundle: The data.
        typed: The vocabulary, a phrase a line.

    Raises:
        GsrError: If a phrase is not allowed, or the network behind the bundle cannot be asked.
    """
    return _phrase_similarities(str(workspace().root), bundle.manifest.digest, typed, bundle)


@st.cache_resource(max_entries=2, show_spinner="Comparing samples and phrases")
def _phrase_similarities(root: str, digest: str, typed: str, _bundle: Bundle) -> pd.DataFrame:
    return phrase_similarities(Workspace(Path(root)), _bundle, phrases_of(typed, "the vocabulary"))


def load_scan(
    run: Run,
    split: str,
    bundle: Bundle,
    measured: pd.DataFrame | None,
    phrases: pd.DataFrame | None = None,
) -> Scan:
    """Return `scanning.scan.scan` of a run that has ended. Not to be changed.

    Args:
        run: The run.
        split: On whose rows it is judged.
        bundle: The run's bundle.
        measured: From `load_properties`.
        phrases: From `load_phrase_similarities`.
    """
    stamp = _stamp(run.path / "head.safetensors")
    words = () if phrases is None else tuple(phrases.columns)
    return _scan(
        str(run.path), split, stamp, measured is not None, words, bundle, measured, phrases
    )


@st.cache_resource(max_entries=8, show_spinner="Looking for what may mislead")
def _scan(
    path: str,
    split: str,
    stamp: int,
    with_properties: bool,
    words: tuple[str, ...],
    _bundle: Bundle,
    _measured: pd.DataFrame | None,
    _phrases: pd.DataFrame | None,
) -> Scan:
    return scan(_bundle, _run(path), measured=_measured, phrases=_phrases, split=split)


def load_look(run: Run, row: int) -> ImageLook | TextLook:
    """Return `looking.looker.look` of a run that has ended. Not to be changed."""
    return _look(str(run.path), row, _stamp(run.head_file))


@st.cache_resource(max_entries=64, show_spinner="Looking through the network")
def _look(path: str, row: int, stamp: int) -> ImageLook | TextLook:
    run = _run(path)
    return look(run, row, _open_network(run))


def _open_network(run: Run) -> Looker:
    return _looker(network_key(run), run)


@st.cache_resource(max_entries=2, show_spinner="Opening the network")
def _looker(network: str, _run: Run) -> Looker:
    return open_looker(_run, load_bundle(_run.config.bundle))


def load_region_columns(bundle: Bundle) -> list[str]:
    """Return `looking.regions.region_columns` of a bundle's data. Not to be changed."""
    return _region_columns(str(bundle.path), bundle.manifest.digest, bundle)


@st.cache_resource(max_entries=8, show_spinner="Looking for boxes and masks")
def _region_columns(path: str, digest: str, _bundle: Bundle) -> list[str]:
    return region_columns(source_of(_bundle))


def load_overlaps(runs: Sequence[Run], split: str, column: str, per_group: int) -> Overlaps:
    """Return `looking.measure.measure_overlaps` of runs that have ended. Not to be changed."""
    named = tuple((str(run.path), _stamp(run.head_file)) for run in runs)
    return _overlaps(named, split, column, per_group)


@st.cache_resource(max_entries=64, show_spinner="Looking at samples of each group")
def _overlaps(
    named: tuple[tuple[str, int], ...], split: str, column: str, per_group: int
) -> Overlaps:
    runs = [_run(path) for path, _ in named]
    return measure_overlaps(
        runs,
        split,
        column=column,
        per_group=per_group,
        bundle=load_bundle(runs[-1].config.bundle),
        open_network=_open_network,
        longest=_PATIENCE,
    )


def load_values(bundle: Bundle, most: int) -> dict[str, list[str]]:
    """Return the values of each attribute that has few, as text. Not to be changed.

    Args:
        bundle: The data.
        most: Attributes with more values are left out.
    """
    return _values(str(bundle.path), bundle.manifest.digest, most, bundle)


@st.cache_resource(max_entries=8, show_spinner=False)
def _values(path: str, digest: str, most: int, _bundle: Bundle) -> dict[str, list[str]]:
    every = {name: _bundle.column(name).unique() for name in _bundle.manifest.attributes}
    return {
        name: sorted(str(value) for value in values.to_pylist() if value is not None)
        for name, values in every.items()
        if len(values) <= most
    }


def load_search(bundle: Bundle, words: str) -> np.ndarray:
    """Return `Bundle.search`. Not to be changed."""
    return _search(str(bundle.path), bundle.manifest.digest, words, bundle)


@st.cache_resource(max_entries=32, show_spinner="Searching")
def _search(path: str, digest: str, words: str, _bundle: Bundle) -> np.ndarray:
    return _bundle.search(words)


def load_similarity(bundle: Bundle, phrase: str) -> np.ndarray:
    """Return the (n,) similarity of every sample to a phrase. Not to be changed.

    Raises:
        GsrError: If the phrase is not allowed, or the network behind the bundle cannot be asked.
    """
    return _similarity(str(workspace().root), bundle.manifest.digest, phrase, bundle)


@st.cache_resource(max_entries=32, show_spinner="Comparing samples and phrase")
def _similarity(root: str, digest: str, phrase: str, _bundle: Bundle) -> np.ndarray:
    return similarities(_bundle, embed_phrases(Workspace(Path(root)), _bundle, [phrase]))[:, 0]


def load_names(
    bundle: Bundle, sets: Mapping[str, np.ndarray], among: np.ndarray, typed: str
) -> pd.DataFrame:
    """Return `phrases.vocabulary.name_sets`. Not to be changed.

    Args:
        bundle: The data.
        sets: Positions of the samples of each set, by its name.
        among: Positions of all samples that are looked at.
        typed: The vocabulary, a phrase a line.

    Raises:
        GsrError: If a phrase is not allowed, or the network behind the bundle cannot be asked.
    """
    root, digest = str(workspace().root), bundle.manifest.digest
    named = tuple((name, rows.tobytes()) for name, rows in sets.items())
    return _names(root, digest, named, among.tobytes(), typed, bundle)


@st.cache_resource(max_entries=32, show_spinner="Looking for words")
def _names(
    root: str,
    digest: str,
    named: tuple[tuple[str, bytes], ...],
    among: bytes,
    typed: str,
    _bundle: Bundle,
) -> pd.DataFrame:
    return name_sets(
        Workspace(Path(root)),
        _bundle,
        {name: np.frombuffer(rows, np.int64) for name, rows in named},
        among=np.frombuffer(among, np.int64),
        vocabulary=phrases_of(typed, "the vocabulary"),
        most=5 if len(named) == 1 else 3,
    )


def load_places(config: MapConfig) -> pd.DataFrame | None:
    """Return `maps.compute.load_map`. Not to be changed."""
    place = workspace()
    file = map_path(place, config)
    return _places(str(place.root), str(file), _stamp(file), config)


@st.cache_resource(max_entries=8, show_spinner=False)
def _places(root: str, file: str, stamp: int, _config: MapConfig) -> pd.DataFrame | None:
    return load_map(Workspace(Path(root)), _config)


def load_weights_at(run: Run, step: int) -> np.ndarray:
    """Return the (n,) weights at a stored step. Not to be changed."""
    return _weights_at(str(run.path), step, _stamp(run.path / "weight_history.safetensors"))


@st.cache_resource(max_entries=64, show_spinner=False)
def _weights_at(path: str, step: int, stamp: int) -> np.ndarray:
    return _run(path).weights_at(step)


def load_weight_paths(run: Run, index: int, group: str) -> pd.DataFrame:
    """Return one sample's weight over the stored steps beside its group's spread.

    Args:
        run: A run with weights.
        index: The sample's row in `Run.weights`.
        group: Its group, as shown.

    Returns:
        Columns step, weight (sums to one over all samples), low and high, the 10th and 90th
        percentile of the weights in the group.
    """
    return _weight_paths(
        str(run.path), index, group, _stamp(run.path / "weight_history.safetensors")
    )


@st.cache_data(max_entries=256, show_spinner=False)
def _weight_paths(path: str, index: int, group: str, stamp: int) -> pd.DataFrame:
    run = _run(path)
    weights = run.weights()
    if weights is None:
        return pd.DataFrame(columns=["step", "weight", "low", "high"])
    same = np.flatnonzero(weights["group"].to_numpy() == group)
    steps = run.weight_steps()
    low, high = np.array(
        [np.quantile(load_weights_at(run, int(step))[same], [0.1, 0.9]) for step in steps]
    ).T
    return pd.DataFrame({"step": steps, "weight": run.weight_path(index), "low": low, "high": high})


def load_neighbours(
    run: Run, split: str, space: str, index: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest samples of a split by cosine distance, as its map has them.

    Gradients are centred on the mean of their class, as on the map, so that both show the same
    neighbours. These come from the map's graph if there is one, else from a comparison with every
    row.

    Args:
        run: The run whose head gives the gradients.
        split: The split to search.
        space: `features` or `gradients`.
        index: The sample's row in the split.
        count: How many.

    Returns:
        Rows in the split and distances, nearest first.
    """
    stamp = _stamp(run.path / "head.safetensors")
    graph = _graph(run, split, space, stamp)
    if graph is not None and graph.k >= min(count, len(graph) - 1):
        return graph.indices[index, :count].astype(np.int64), graph.distances[index, :count]
    near, distance = nearest(_space(str(run.path), split, space, stamp), np.array([index]), count)
    return near[0], distance[0]


def _graph(run: Run, split: str, space: str, stamp: int) -> NeighbourGraph | None:
    """Return the stored graph of a split's rows, if these are the run's."""
    bundle = load_bundle(run.config.bundle)
    file, rows = _graph_file(str(run.path), split, space, stamp)
    if not file.exists() or not np.array_equal(run.rows_of(split, bundle), rows):
        return None
    return _read_graph(str(file), _stamp(file))


@st.cache_resource(max_entries=64, show_spinner=False)
def _graph_file(path: str, split: str, space: str, stamp: int) -> tuple[Path, np.ndarray]:
    """Return the file of the graph of a split, and its rows, whether or not it exists."""
    run = _run(path)
    bundle = run.seen(load_bundle(run.config.bundle))
    head = map_head(bundle, run)
    within = "features" if space == "features" or head is None else "gradients"
    config = map_config(bundle, head, space=within, splits=[split])
    return graph_path(run.workspace, config), map_rows(bundle, config)


@st.cache_resource(max_entries=4, show_spinner=False)
def _read_graph(file: str, stamp: int) -> NeighbourGraph | None:
    return read_graph(Path(file))


@st.cache_resource(max_entries=4, show_spinner="Looking for neighbours")
def _space(path: str, split: str, space: str, stamp: int) -> torch.Tensor | CentredGradients:
    run = _run(path)
    bundle = run.seen(load_bundle(run.config.bundle))
    rows = run.rows_of(split, bundle)
    features = _features(bundle, bundle.manifest.digest, rows.tobytes())
    head = map_head(bundle, run)
    if space == "features" or head is None:
        return features
    labels = torch.from_numpy(bundle.y[rows])
    return gradients(head, features, labels).centred(labels)


@st.cache_resource(max_entries=2, show_spinner=False)
def _features(_bundle: Bundle, digest: str, rows: bytes) -> torch.Tensor:
    """Return the features of some rows, kept once for both spaces and for few splits."""
    return torch.from_numpy(np.ascontiguousarray(_bundle.features[np.frombuffer(rows, np.int64)]))


def _run(path: str) -> Run:
    """Return the run in a directory; caches are keyed by its path."""
    directory = Path(path)
    return Run(Workspace(directory.parent.parent), directory)


def _stamp(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0
