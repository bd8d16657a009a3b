r"""Which samples to label next: those whose group label would tell most, in a fixed order.

Three orders of the rows that carry a weight and are in no known group.

**influence**, the default. The score of a row is

.. math:: s_i = \max_g |I_{ig}| \cdot H\big(p(\cdot \mid x_i, y_i)\big)

with the influence :math:`I_{ig}` of its weight on each group's target loss at a run's kept step
(`gsr_core.linear.influence`), and the entropy H of its groups in nats: high where the row moves
some group's loss and it is not clear whose it is. Entropy of what is predicted is the usual measure
of uncertainty (Settles, "Active Learning Literature Survey", University of Wisconsin-Madison,
2009), and that a sample is chosen by what it does to the loss of others is that of Liu et al.,
"Influence Selection for Active Learning" (ICCV 2021). The rows of highest score, ten times as many
as are asked for, are clustered, and clusters take turns, each with its best row that is left, as in
Citovsky et al., "Batch Active Learning at Scale" (NeurIPS 2021), with k-means in place of their
hierarchical clusters.

**balanced**. Labels are worth most in the groups that have fewest, and a group's rows
should be any of its rows, not its oddest. Each row is drawn into one group from the probabilities
:math:`p(g \mid x_i, y_i)` that it is in it, by a random number of its own that stays (Thompson,
"On the likelihood that one unknown probability exceeds another", Biometrika 1933: act by a draw
from what is believed). Then groups take turns: the next label goes to the group that has fewest
known rows, asked ones counted, as sampling goes to the group that is worst served in Abernethy et
al., "Active Sampling for Min-Max Fairness" (ICML 2022). Among the rows drawn into it, the next is
of the cluster that was asked least, so that one kind of sample does not fill the queue.

**random**, which knows nothing, as a fair test set needs it.

The probabilities come from a logistic regression for each class, of the known groups (of target,
and by hand) on the features, standardised over the rows that carry weights; val and test take no
part. Clusters are those of k-means on the features. On the example no order repairs better than
random by more than chance, though both others find more of the rare groups (docs/results.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import describe, patterns
from gsr_core.errors import SettingError
from gsr_core.labelling.answers import SKIPPED, answers, membership_of, unlabelled
from gsr_core.runs.store import Run, list_runs
from gsr_core.workspace import Workspace

__all__ = [
    "COUNT",
    "ORDERS",
    "find_ranking_run",
    "group_probabilities",
    "label_queue",
    "left_to_label",
]

COUNT = 50
"""Rows of a queue, after which it is ranked anew."""

ORDERS = ("influence", "balanced", "random")

_CANDIDATES = 10
"""Rows that are clustered for each one asked for, in the order by influence."""

_CLUSTERS = 20

_CLUSTERED = 5000
"""Rows on which clusters are found; others go to the nearest."""

_REGULARISATION = 0.1
"""`C` of scikit-learn's logistic regression: there are few known groups and many features."""

_BLOCK = 1 << 26
"""Bytes of features that are held at a time."""


def left_to_label(workspace: Workspace, bundle: Bundle) -> np.ndarray:
    """Return the positions of the rows that carry weights, whose group is neither known nor asked.

    Skipped rows are not among them.

    Args:
        workspace: Where the answers are.
        bundle: The data.

    Raises:
        GsrError: If the file of answers cannot be read.
    """
    pool = np.intersect1d(unlabelled(bundle), bundle.rows_of[bundle.manifest.weighted_split])
    return np.setdiff1d(pool, answers(workspace, bundle)["row"].to_numpy())


def find_ranking_run(workspace: Workspace, bundle: Bundle) -> Run:
    """Return the newest run on a bundle that can rank its rows by influence.

    Raises:
        SettingError: If there is none.
    """
    for run in list_runs(workspace):
        if run.config.bundle_digest == bundle.manifest.digest and run.influence() is not None:
            return run
    raise SettingError(
        f"no run on bundle '{bundle.name}' has the influence of samples on groups, by which they "
        f"would be ranked; start one ('gsr run {bundle.name}'), or take the "
        "order balanced, which needs none"
    )


def label_queue(
    workspace: Workspace,
    bundle: Bundle,
    *,
    order: str = "influence",
    run: Run | None = None,
    count: int = COUNT,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the rows to label next; the same answers so far give the same queue.

    Args:
        workspace: Where the answers are.
        bundle: The data.
        order: One of `ORDERS`.
        run: Whose influence ranks; for the order `influence` alone, where `find_ranking_run` gives
            one if None.
        count: Most rows of the queue.
        seed: Of what is drawn.

    Returns:
        Columns row (position in the bundle), sample_id and class, in the order of the queue. With
        `balanced` also likely (the group that the row was drawn into), probability (that it is in
        it) and cluster; with `influence` also score (nats squared), influence (the largest on a
        group, nats for a unit of weight, without sign), uncertainty (nats) and cluster.

    Raises:
        SettingError: If there is no such order, `count` is less than 1, or the run is of other data
            or has no influence.
        GsrError: If the file of answers cannot be read.

    Example:
        >>> from gsr_core.labelling.bundles import hide_groups
        >>> birds = hide_groups(place, gsr.open_bundle(place, "birds"), "hidden", keep=5)
        >>> queue = label_queue(place, birds, order="balanced", count=8)
        >>> queue["likely"].tolist()[:4]
        ['cat, red', 'cat, green', 'dog, red', 'dog, green']
    """
    if order not in ORDERS:
        raise SettingError(f"order is '{order}'; allowed are {', '.join(ORDERS)}")
    if count < 1:
        raise SettingError(f"count is {count}; ask for 1 sample or more")
    rows = left_to_label(workspace, bundle)
    if not len(rows):
        # Nothing to rank needs no run that ranks.
        queue = pd.DataFrame({"row": rows})
    elif order == "influence":
        strength = _strength(run or find_ranking_run(workspace, bundle), bundle)
        rows = np.intersect1d(rows, strength.index)
        queue = _by_influence(workspace, bundle, rows, strength, count)
    elif order == "balanced":
        queue = _balanced(workspace, bundle, rows, count, seed)
    else:
        drawn = np.random.default_rng(seed).permutation(len(bundle))
        queue = pd.DataFrame({"row": drawn[np.isin(drawn, rows)][:count]})
    places = queue["row"].to_numpy()
    queue.insert(1, "sample_id", bundle.column("sample_id").take(places).to_pandas())
    queue.insert(2, "class", np.array(bundle.manifest.classes, dtype=object)[bundle.y[places]])
    return queue


def _balanced(
    workspace: Workspace, bundle: Bundle, rows: np.ndarray, count: int, seed: int
) -> pd.DataFrame:
    """Return rows in turns of the groups that have fewest known rows."""
    names, p, known = group_probabilities(workspace, bundle, rows)
    # Numbers of every row of the bundle, so that answers to others do not change them.
    fate, luck = np.random.default_rng(seed).random((2, len(bundle)))[:, rows]
    drawn = np.minimum((p.cumsum(axis=1) < fate[:, None]).sum(axis=1), p.shape[1] - 1)
    cluster = _clusters(bundle, rows)
    waiting: dict[tuple[int, int], list[int]] = {}
    # Backwards, since the last of a list is taken first.
    for place in np.argsort(-luck):
        waiting.setdefault((int(drawn[place]), int(cluster[place])), []).append(int(place))
    asked, chosen = np.zeros(_CLUSTERS, dtype=np.int64), list[int]()
    known = known.copy()
    while waiting and len(chosen) < count:
        group = min({each for each, _ in waiting}, key=lambda each: (known[each], each))
        key = min((each for each in waiting if each[0] == group), key=lambda each: asked[each[1]])
        chosen.append(waiting[key].pop())
        if not waiting[key]:
            del waiting[key]
        known[group] += 1
        asked[key[1]] += 1
    return pd.DataFrame(
        {
            "row": rows[chosen],
            "likely": np.array(names, dtype=object)[drawn[chosen]],
            "probability": p[chosen, drawn[chosen]],
            "cluster": cluster[chosen],
        }
    )


def _by_influence(
    workspace: Workspace, bundle: Bundle, rows: np.ndarray, strength: pd.Series, count: int
) -> pd.DataFrame:
    """Return rows of high influence and uncertainty, clusters in turns."""
    _, p, _ = group_probabilities(workspace, bundle, rows)
    entropy = -(p * np.log(np.maximum(p, np.finfo(float).tiny))).sum(axis=1)
    influence = strength.loc[rows].to_numpy(dtype=np.float64)
    score = influence * entropy
    # A stable sort, so that equal scores keep the order of the rows.
    best = np.argsort(-score, kind="stable")[: _CANDIDATES * count]
    cluster = _clusters(bundle, rows[best])
    turn = pd.Series(cluster).groupby(cluster).cumcount().to_numpy()
    order = np.argsort(turn, kind="stable")[:count]
    chosen = best[order]
    return pd.DataFrame(
        {
            "row": rows[chosen],
            "score": score[chosen],
            "influence": influence[chosen],
            "uncertainty": entropy[chosen],
            "cluster": cluster[order],
        }
    )


def _strength(run: Run, bundle: Bundle) -> pd.Series:
    """Return the largest influence of each row that carries a weight, without sign, by position.

    Raises:
        SettingError: If the run is of other data, or has no influence.
    """
    if run.config.bundle_digest != bundle.manifest.digest:
        raise SettingError(
            f"run '{run.run_id}' is not of bundle '{bundle.name}' as it is now; choose one of "
            f"'gsr runs' that is, or start one: gsr run {bundle.name}"
        )
    influence = run.influence()
    if influence is None:
        raise SettingError(
            f"run '{run.run_id}' of {run.config.method} has no influence of samples on groups; "
            f"take another order, start a run of gsr ('gsr run {bundle.name}') or, if it was left "
            f"out, compute it ('gsr influence {run.run_id}')"
        )
    return pd.Series(np.abs(influence).max(axis=1), index=run.weighted_rows())


def group_probabilities(
    workspace: Workspace, bundle: Bundle, rows: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return which groups rows may be in, given those of target and the answers so far.

    Args:
        workspace: Where the answers are.
        bundle: The data.
        rows: (q,) positions in the bundle.

    Returns:
        The k groups, or combinations of groups, that are known of some row of target or by hand;
        (q, k) probabilities of each, which sum to one; and (k,) how many such rows there are. A row
        of a class of which none is known has the same probability of all.

    Raises:
        GsrError: If the file of answers cannot be read.
    """
    # Not above: importing scikit-learn would keep the dashboard's first page waiting.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    given = answers(workspace, bundle)
    given = given[given["answer"] != SKIPPED]
    membership = bundle.membership.copy()
    membership[given["row"].to_numpy()] = membership_of(bundle, given["answer"].tolist())
    known = np.union1d(bundle.rows_of["target"], given["row"].to_numpy())
    known = known[membership[known].any(axis=1)]
    kinds, kind = patterns(membership[known])
    # The patterns rise from the last group on; backwards, the first group comes first.
    kinds, kind = kinds[::-1], len(kinds) - 1 - kind
    p = np.full((len(rows), len(kinds)), 1 / len(kinds))
    scale = StandardScaler()
    for _, block in _blocks(bundle, bundle.rows_of[bundle.manifest.weighted_split]):
        scale.partial_fit(block)
    for label in np.unique(bundle.y[rows]):
        mine, inside = bundle.y[known] == label, np.flatnonzero(bundle.y[rows] == label)
        there = np.unique(kind[mine])
        if not len(there):
            continue
        p[inside] = 0
        if len(there) == 1:
            p[inside, there[0]] = 1
            continue
        model = LogisticRegression(C=_REGULARISATION, max_iter=1000)
        features = np.asarray(bundle.features[known[mine]], np.float64)
        model.fit(scale.transform(features), kind[mine])
        for places, block in _blocks(bundle, rows[inside]):
            p[np.ix_(inside[places], there)] = model.predict_proba(scale.transform(block))
    names = [str(name) for name in describe(kinds, bundle.group_names)]
    return names, p, np.bincount(kind, minlength=len(kinds))


def _clusters(bundle: Bundle, rows: np.ndarray) -> np.ndarray:
    """Return (q,) the k-means cluster of each row by its features."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    cluster = np.zeros(len(rows), dtype=np.int64)
    if len(rows) <= 1:
        return cluster
    some = rows if len(rows) <= _CLUSTERED else rows[:: -(-len(rows) // _CLUSTERED)]
    model = KMeans(min(_CLUSTERS, len(some)), random_state=0)
    with warnings.catch_warnings():
        # Of equal rows there are fewer clusters, which is no harm here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.set_params(n_init=1).fit(np.asarray(bundle.features[some], np.float64))
    for places, block in _blocks(bundle, rows):
        cluster[places] = model.predict(block)
    return cluster


def _blocks(bundle: Bundle, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield places among rows and their features, as float64, some 64 MB at a time."""
    size = max(_BLOCK // (8 * bundle.manifest.n_features), 1)
    for start in range(0, len(rows), size):
        places = slice(start, start + size)
        yield places, np.asarray(bundle.features[rows[places]], np.float64)
