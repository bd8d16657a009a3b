"""What an exported head says of every sample, as files for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter
from scipy.special import log_softmax

from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.runs.store import Run

__all__ = ["MOST_PROBABILITIES", "PROBABILITY", "write_predictions"]

PROBABILITY = "probability: "
"""Prefix of the columns with the probability of a class."""

MOST_PROBABILITIES = 2**25
"""Samples times classes, above which files have the probability of the prediction alone."""

_PARQUET, _CSV = "predictions.parquet", "predictions.csv"

_BLOCK = 2**22
"""Numbers of features and logits that are held at a time."""


def write_predictions(
    run: Run, head: tuple[np.ndarray, np.ndarray], folder: Path, bundle: Bundle
) -> None:
    """Write one row a sample and split to `predictions.parquet` and `predictions.csv`.

    Columns `sample_id`, `row` (position in the bundle), `split` as the run saw it, `class`,
    `group`, `prediction`, `correct`, `confidence` (probability of the prediction), `loss` (nats),
    and `probability: <class>` for each class, up to `MOST_PROBABILITIES` numbers.

    Args:
        run: Whose splits and features these are.
        head: weight (K, d) and bias (K,), on raw features: the run's, or with other offsets.
        folder: A directory that is there.
        bundle: The run's bundle.
    """
    with ExitStack() as files:
        writers: list[pq.ParquetWriter | CSVWriter] = []
        for table in _tables(run, head, bundle):
            if not writers:
                writers = [
                    files.enter_context(pq.ParquetWriter(folder / _PARQUET, table.schema)),
                    files.enter_context(CSVWriter(folder / _CSV, table.schema)),
                ]
            for writer in writers:
                writer.write_table(table)


def _tables(run: Run, head: tuple[np.ndarray, np.ndarray], bundle: Bundle) -> Iterator[pa.Table]:
    """Yield what a head says of the rows of each split, some at a time."""
    weight, bias = head
    features, classes = run.seen(bundle).features, pa.array(bundle.manifest.classes)
    rows_of = {split: run.rows_of(split, bundle) for split in SPLITS}
    every = sum(map(len, rows_of.values())) * len(bias) <= MOST_PROBABILITIES
    size = max(_BLOCK // (weight.shape[1] + 2 * len(bias)), 1)
    for split, all_rows in rows_of.items():
        for start in range(0, len(all_rows), size):
            rows = all_rows[start : start + size]
            places, y = pa.array(rows), bundle.y[rows]
            logits = np.asarray(features[rows]) @ weight.T + bias
            log_probability = log_softmax(logits.astype(np.float64), axis=1)
            prediction, each = logits.argmax(axis=1), np.arange(len(rows))
            columns = {
                "sample_id": bundle.column("sample_id").take(places),
                "row": places,
                "split": pa.array([split] * len(rows)),
                "class": classes.take(pa.array(y)),
                "group": bundle.labels_at(rows),
                "prediction": classes.take(pa.array(prediction)),
                "correct": pa.array(prediction == y),
                "confidence": pa.array(np.exp(log_probability[each, prediction])),
                "loss": pa.array(-log_probability[each, y]),
            }
            if every:
                probability = np.exp(log_probability).astype(np.float32)
                columns |= {
                    f"{PROBABILITY}{name}": pa.array(probability[:, k])
                    for k, name in enumerate(bundle.manifest.classes)
                }
            yield pa.table(columns)
