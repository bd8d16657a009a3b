"""One row a sample: what a run's head says of it, what it weighed, whom it helps or harms."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import log_softmax

from gsr_core.data.bundle import INFLUENCE, Bundle
from gsr_core.files import replace_file
from gsr_core.runs.store import Run

__all__ = ["INFLUENCE", "goal_weights", "keep_scores", "sample_table"]

_CHUNK = 1 << 26
"""Bytes of features and logits that are held at a time."""

_SCORES = np.dtype([("prediction", "<i4"), ("confidence", "<f4"), ("loss", "<f4")])


def sample_table(run: Run, split: str, bundle: Bundle | None = None) -> pd.DataFrame:
    """Return the samples of one split as a run's kept head sees them.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits, as the run's seed drew it.
        bundle: The run's bundle, if it is open already.

    Returns:
        Columns `row` (position in the bundle), `sample_id`, `group`, `y`, `prediction`,
        `correct`, `confidence` (probability of the prediction), `loss` (nats), the bundle's
        attributes; and on the rows that carry the weights `weight` (relative to uniform: 1 is an
        equal share), `rank` (1 is the heaviest) and, where the method has it, one column
        `influence: <group>` a group that the method saw (nats per unit of weight; negative = more
        weight lowers that group's target loss) and `goal`, their mean by the groups' weights at
        the kept step: what more weight does to what the method minimises there. Where labels are
        noisy, also `label flipped` and `label seen`, the class that the method was given; all else
        is of the true class.

    Raises:
        RunStateError: If the run has no head yet.
    """
    bundle = bundle or run.bundle
    scores = keep_scores(run, bundle)
    wanted = ["row", "weight", "inferred_group", "y", "flipped"]
    weights = run.weights(columns=wanted) if split == run.values_split else None
    rows = run.rows_of(split, bundle) if weights is None else weights["row"].to_numpy()
    places = pa.array(rows)
    seen = scores[rows]
    y = bundle.y[rows]
    columns = {
        "row": rows,
        "sample_id": bundle.column("sample_id").take(places).to_pandas(),
        "group": bundle.labels_at(rows).to_pandas(),
        "y": y,
        "prediction": seen["prediction"].astype(np.int64),
        "correct": seen["prediction"] == y,
        "confidence": seen["confidence"].astype(np.float64),
        "loss": seen["loss"].astype(np.float64),
    }
    for attribute in bundle.manifest.attributes:
        columns[attribute] = bundle.column(attribute).take(places).to_pandas()

    if weights is not None:
        weight = weights["weight"].to_numpy() * len(weights)
        # Those of the same weight share the best rank among them.
        rank = pd.Series(-weight).rank(method="min").to_numpy(np.int64)
        columns |= {"weight": weight, "rank": rank}
        if "inferred_group" in weights:
            columns["inferred_group"] = weights["inferred_group"].to_numpy()
        if "flipped" in weights:
            columns |= {"label flipped": weights["flipped"], "label seen": weights["y"]}
    # Runs of networks can have it without weights.
    influence = run.influence() if split == run.values_split else None
    if influence is not None:
        for g, name in enumerate(run.groups_seen(bundle)):
            columns[INFLUENCE + name] = np.asarray(influence[:, g], dtype=np.float64)
        gamma = goal_weights(run, bundle, run.state.best_step)
        columns["goal"] = np.asarray(influence, dtype=np.float64) @ gamma
    return pd.DataFrame(columns)


def goal_weights(run: Run, bundle: Bundle, step: int) -> np.ndarray:
    """Return (m,) the seen groups' weights in what is minimised at a step; they sum to one."""
    history = run.metrics()
    rows = history[(history["metric"] == "group_weight") & (history["step"] == step)]
    known = rows.set_index("group")["value"].reindex(run.groups_seen(bundle)).to_numpy(float)
    if np.isnan(known).any() or not known.sum():
        return np.full(len(known), 1 / len(known))
    return known / known.sum()


def keep_scores(run: Run, bundle: Bundle | None = None) -> np.ndarray:
    """Return what a run's kept head says of every row of the bundle.

    The features are read once, when the run ends; later calls read what was written then.

    Args:
        run: A run that has ended with a head.
        bundle: The run's bundle, if it is open already.

    Returns:
        (n,) records of `prediction`, `confidence` and `loss`, memory-mapped.

    Raises:
        RunStateError: If the run has no head yet.
    """
    head, bundle = run.kept_head(), bundle or run.bundle
    weight, bias = head
    identity = hashlib.sha256(bundle.manifest.digest.encode())
    for part in head:
        identity.update(np.ascontiguousarray(part).data)
    # A run that goes on has another head, whose scores have another name.
    file = run.path / f"scores-{identity.hexdigest()[:16]}.npy"
    if not file.exists():
        scores = np.empty(len(bundle), dtype=_SCORES)
        size = max(_CHUNK // (4 * weight.shape[1] + 16 * len(bias)), 1)
        features = run.seen(bundle).features
        for start in range(0, len(bundle), size):
            chunk = slice(start, start + size)
            scores[chunk] = _scores(np.asarray(features[chunk]) @ weight.T + bias, bundle.y[chunk])
        with replace_file(file) as temporary, temporary.open("wb") as opened:
            np.save(opened, scores)
        for other in run.path.glob("scores-*.npy"):
            if other != file:
                other.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _scores(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    log_probability = log_softmax(logits.astype(np.float64), axis=1)
    each = np.arange(len(y))
    scores = np.empty(len(y), dtype=_SCORES)
    scores["prediction"] = prediction = logits.argmax(axis=1)
    scores["confidence"] = np.exp(log_probability[each, prediction])
    scores["loss"] = -log_probability[each, y]
    return scores
