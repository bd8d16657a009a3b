"""A whole comparison as one object, for `gsr compare --json` and other programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.comparing.bootstrap import bootstrap_entries, judged
from gsr_core.comparing.changes import changed_samples, shared_run
from gsr_core.comparing.entries import Entry
from gsr_core.comparing.paired import paired_values, rank_correlation
from gsr_core.comparing.scores import group_scores, scores, spread
from gsr_core.data.bundle import Bundle
from gsr_core.errors import ComparisonError
from gsr_core.methods.registry import METHODS
from gsr_core.plain import finite, record, records
from gsr_core.runs.protocol import protocol_of
from gsr_core.runs.samples import sample_table
from gsr_core.runs.summary import AVERAGES

__all__ = ["comparison"]


def comparison(compared: Sequence[Entry], reference: Entry) -> dict[str, Any]:
    """Return everything about entries as one object.

    Accuracies are fractions of test at the kept step; unknown values are None.

    Args:
        compared: Entries whose runs `check_comparable` accepts.
        reference: The entry that the others are compared with.
    """
    bundle = reference.runs[0].unchanged_bundle()
    table, by_group = scores(compared), group_scores(compared)
    others = [entry for entry in compared if entry != reference]
    drawn = {entry.label: bootstrap_entries(entry, reference, bundle) for entry in others}
    return {
        "bundle": bundle.name,
        "split": "test",
        "reference": reference.label,
        "entries": [_entry(entry, bundle, table, by_group) for entry in compared],
        "paired": [
            {"metric": metric, "reference": reference.label, **record(row)}
            for metric in AVERAGES
            for row in judged(table, reference, drawn, metric).to_dict("records")
        ],
        "changed": [_changed(reference, entry, bundle) for entry in others],
        "values": [
            _values(one, two) for place, one in enumerate(compared) for two in compared[place + 1 :]
        ],
    }


def _entry(
    entry: Entry, bundle: Bundle, table: pd.DataFrame, by_group: pd.DataFrame
) -> dict[str, Any]:
    own = table[table["entry"] == entry.label]
    groups = by_group[by_group["entry"] == entry.label]
    protocol = protocol_of(entry.runs[0], bundle)
    counts = {
        "worst_group_accuracy": int(own["worst_count"].iloc[0]),
        "mean_accuracy": bundle.manifest.split_sizes["test"],
        "adjusted_accuracy": None,
    }
    method = METHODS[entry.config.method]
    return {
        "label": entry.label,
        "method": entry.config.method,
        "settings": {k: v for k, v in entry.config.settings.items() if k != "seed"},
        "variation": entry.config.variation,
        "seeds": list(entry.seeds),
        "every_seed": entry.every_seed,
        "stopped": entry.stopped,
        "runs": [run.run_id for run in entry.runs],
        "needs": str(method.needs),
        "trained_with": protocol.training,
        "label_budget": {"rows": protocol.budget, **protocol.labels},
        "chosen_by": protocol.chosen_by,
        "values": str(method.values),
        "interval": f"sd over {len(own)} seeds" if len(own) > 1 else "95 % Wilson",
        **{
            name: {
                **record(spread(own[name], counts[name])),
                "by_seed": list(map(finite, own[name])),
            }
            for name in AVERAGES
        },
        "worst_group": Counter(own["worst_group"]).most_common(1)[0][0],
        "groups": [
            {
                "group": name,
                "n": int(part["count"].iloc[0]),
                **record(spread(part["accuracy"], int(part["count"].iloc[0]))),
            }
            for name, part in groups.groupby("group", sort=False)
        ],
        "steps": own["step"].tolist(),
        "seconds": float(own["seconds"].mean()),
    }


def _changed(reference: Entry, entry: Entry, bundle: Bundle) -> dict[str, Any]:
    one, two = shared_run(reference, entry)
    tables = (sample_table(run, "test", bundle) for run in (one, two))
    return {
        "reference": one.run_id,
        "run": two.run_id,
        "groups": records(changed_samples(bundle, *tables)[0]),
    }


def _values(one: Entry, two: Entry) -> dict[str, Any]:
    a, b = shared_run(one, two)
    answer: dict[str, Any] = {"a": a.run_id, "b": b.run_id, "samples": 0, "rank_correlation": None}
    try:
        values = paired_values(a, b)
    except ComparisonError as error:
        return {**answer, "reason": str(error)}
    constant = "" if np.isfinite(rho := rank_correlation(values)) else "one of them is constant"
    return {**answer, "samples": len(values), "rank_correlation": finite(rho), "reason": constant}
