"""GEORGE's groups: Gaussian mixtures of each class's features, reduced.

Sohoni et al., "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained Classification
Problems" (NeurIPS 2020): the features of each class are reduced by UMAP to two dimensions
(10 neighbours, no minimal distance), a Gaussian mixture is fitted with the number of components of
the best mean silhouette, and optionally each cluster is cut finer where that is worth it: a mixture
of `overcluster` times as many components, of which a part is kept if its silhouette and its mean
loss are above those of the cluster that most of it comes from, and if it is large enough.

Where we differ: rows of target and val decide nothing: by UMAP each falls where its nearest
weighted row is, by PCA, the faster choice, where it falls. PCA is another method and no neutral
substitute; it leaves five columns, because its leading two often miss what UMAP's two show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.special import log_softmax

from gsr_core.data.problem import Problem
from gsr_core.gradients.projections import umap_map
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    ClassClusters,
    GroupInference,
    InferredGroups,
    Space,
    numbers_in_words,
    numbers_tried,
    rows_of_class,
    settings,
    splits_of,
    within_classes,
)
from gsr_core.inference.references import Reference, logits_of_splits, reference_head

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

__all__ = ["GeorgeInference", "Mixtures"]

_NEIGHBOURS = 10
"""Of UMAP, as published."""
_RESTARTS = 5
"""Of a mixture, whose likelihood has many maxima; the best is taken."""
_EM_STEPS = 300
"""Most steps of expectation maximisation."""
_SMALLEST, _SMALLEST_SHARE = 25, 0.005
"""A finer cluster has at least this many rows and this share of its class."""
_FEWEST = 3
"""Fewer rows cannot be two clusters and have a silhouette."""
_SCORED_ROWS = 5000
"""The silhouette compares all pairs; of larger classes it is taken over this many rows."""


@dataclass(frozen=True)
class _Mixture:
    """The mixture of one class; no model where the class could not be split."""

    model: GaussianMixture | None
    silhouettes: Mapping[int, float]
    finer: GaussianMixture | None = None
    kept: tuple[int, ...] = ()

    @property
    def k(self) -> int:
        return 1 if self.model is None else self.model.n_components

    def assign(self, places: np.ndarray) -> np.ndarray:
        """Return the cluster of each of (n, r) places; the finer ones count on from the others."""
        if self.model is None or not len(places):
            return np.zeros(len(places), dtype=np.int64)
        cluster = self.model.predict(places).astype(np.int64)
        if self.finer is not None:
            part = self.finer.predict(places)
            cluster = np.where(np.isin(part, self.kept), self.k + part, cluster)
        return cluster


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class Mixtures:
    """How features are reduced, and which mixtures are fitted to them."""

    reduce: Annotated[
        Literal["pca", "umap"],
        Field(description="How the features are reduced; umap is as published, pca is faster."),
    ] = "umap"
    dimensions: Annotated[
        int, Field(ge=1, le=50, description="Columns left by pca; umap leaves two.")
    ] = 5
    max_clusters: Annotated[
        int, Field(ge=2, le=20, description="Most clusters of a class that are tried.")
    ] = 5
    overcluster: Annotated[
        int,
        Field(
            ge=1,
            le=10,
            description="Cut clusters finer where it is worth it, by trying this many times as "
            "many; 1 leaves them.",
        ),
    ] = 1


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class GeorgeInference(Mixtures, GroupInference):
    """Fit a Gaussian mixture to the features of each class."""

    title: ClassVar[str] = "GEORGE: mixtures of features"
    summary: ClassVar[str] = (
        "Fits a Gaussian mixture to the reduced features of each class, with as many components "
        "as the silhouette says."
    )
    space: ClassVar[Space] = "features"

    reference: Annotated[
        Reference,
        Field(
            description="The head whose losses say what is worth cutting: the backbone's own (an "
            "early one where there is none), one stopped early, or one fitted to the end."
        ),
    ] = "backbone"

    def partition(self, problem: Problem) -> InferredGroups:
        """Fit the mixtures to the weighted rows; the others go to the likeliest component.

        Args:
            problem: As `infer` gives it.
        """
        losses = self._losses(problem) if self.overcluster > 1 else None
        features = {
            split: rows.features.double().cpu().numpy()
            for split, rows in splits_of(problem).items()
        }
        clusters, candidates, mixtures = {}, [], {}
        for label in range(problem.n_classes):
            rows = rows_of_class(problem, label)
            if not len(rows["weighted"]):
                continue
            places = {split: features[split][rows[split]] for split in rows}
            if len(rows["weighted"]) >= _FEWEST:
                places = self._reduced(places)
            mixture = self._fit(
                places["weighted"], None if losses is None else losses[rows["weighted"]]
            )
            clusters[label] = ClassClusters(
                **{split: mixture.assign(each) for split, each in places.items()}
            )
            candidates += numbers_tried(label, mixture)
            if mixture.model is not None:
                mixtures[label] = mixture
        choice = numbers_in_words(mixtures)
        if finer := sum(len(each.kept) for each in mixtures.values()):
            choice += f"; {finer} finer clusters were kept"
        return within_classes(problem, clusters, choice, candidates)

    def _losses(self, problem: Problem) -> np.ndarray:
        """Return each weighted row's cross-entropy under the reference head, nats."""
        logits = logits_of_splits(problem, reference_head(problem, self.reference))["weighted"]
        labels = problem.weighted.labels.cpu().numpy()
        return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]

    def _reduced(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return (n, r) places of the rows of one class."""
        # Not above: importing scikit-learn would keep the dashboard's first page waiting.
        from sklearn.decomposition import PCA
        from sklearn.neighbors import NearestNeighbors

        if self.reduce == "umap":
            fitted = features["weighted"]
            places = umap_map(
                fitted,
                metric="euclidean",
                n_neighbors=_NEIGHBOURS,
                min_dist=0.0,
                seed=self.seed,
            ).astype(np.float64)
            # UMAP places further rows by another fit; the nearest row says as much.
            nearest = NearestNeighbors(n_neighbors=1).fit(fitted)
            others = {
                split: places[nearest.kneighbors(part, return_distance=False)[:, 0]]
                if len(part)
                else places[:0]
                for split, part in features.items()
            }
            return _scaled({**others, "weighted": places})
        fitted = features["weighted"]
        model = PCA(min(self.dimensions, *fitted.shape), random_state=self.seed).fit(fitted)
        return _scaled(
            {
                split: model.transform(part) if len(part) else np.empty((0, model.n_components_))
                for split, part in features.items()
            }
        )

    def _fit(self, places: np.ndarray, losses: np.ndarray | None) -> _Mixture:
        """Return the mixture of the best mean silhouette, the fewest components on ties."""
        different = len(np.unique(places, axis=0))
        scored = np.random.default_rng(self.seed).permutation(len(places))[:_SCORED_ROWS]
        model, silhouettes = None, {}
        for k in range(2, min(self.max_clusters, different - 1) + 1):
            tried = self._mixture(k).fit(places)
            labels = tried.predict(places)
            if len(np.unique(labels[scored])) < 2:
                continue
            score = float(np.mean(_silhouettes(places[scored], labels[scored])))
            if score > max(silhouettes.values(), default=-np.inf):
                model = tried
            silhouettes[k] = score
        if model is None or losses is None:
            return _Mixture(model, silhouettes)
        finer = self._mixture(min(model.n_components * self.overcluster, different)).fit(places)
        kept = _worth_keeping(places, losses, model.predict(places), finer.predict(places), scored)
        return _Mixture(model, silhouettes, finer, kept)

    def _mixture(self, components: int) -> GaussianMixture:
        from sklearn.mixture import GaussianMixture

        return GaussianMixture(
            components, n_init=_RESTARTS, random_state=self.seed, max_iter=_EM_STEPS
        )


def _silhouettes(places: np.ndarray, labels: np.ndarray) -> np.ndarray:
    from sklearn.metrics import silhouette_samples

    return np.asarray(silhouette_samples(places, labels))


def _scaled(places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the places in units of the spread of weighted, which suits a mixture's floor."""
    spread = places["weighted"].std(axis=0).max()
    return {split: part / spread for split, part in places.items()} if spread > 0 else places


def _worth_keeping(
    places: np.ndarray, losses: np.ndarray, coarse: np.ndarray, fine: np.ndarray, scored: np.ndarray
) -> tuple[int, ...]:
    """Return which finer clusters are tighter, worse off and large enough.

    Args:
        places: (n, r).
        losses: (n,) nats.
        coarse: (n,) clusters.
        fine: (n,) finer clusters.
        scored: Rows whose silhouettes are compared.
    """
    if len(np.unique(fine[scored])) < 2:
        return ()
    of_coarse, of_fine = np.full(len(places), np.nan), np.full(len(places), np.nan)
    of_coarse[scored] = _silhouettes(places[scored], coarse[scored])
    of_fine[scored] = _silhouettes(places[scored], fine[scored])
    smallest = max(_SMALLEST, _SMALLEST_SHARE * len(places))
    kept = []
    for part in np.unique(fine[scored]):
        inside = fine == part
        parent = coarse == np.bincount(coarse[inside]).argmax()
        tighter = np.nanmean(of_fine[inside]) > np.nanmean(of_coarse[parent])
        worse = losses[inside].mean() > losses[parent].mean()
        if tighter and worse and inside.sum() >= smallest:
            kept.append(int(part))
    return tuple(kept)
