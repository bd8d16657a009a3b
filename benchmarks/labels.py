"""Accuracy of the repair against the number of group labels by hand, for docs/results.md.

    python benchmarks/labels.py [--seeds 5] [--workspace DIR]

Each seed makes the built-in example anew, hides the groups of train and heldout, and keeps two
rows of each group in target. Then labels are bought, in batches up to the numbers of `BUDGETS`, in
each of the orders of `label_queue`, ranked anew for each batch, by a run of GSR on the labels so
far where influence ranks. Answers are the true groups. Answered rows move from heldout to target,
and GSR and DFR at their default settings are run on what that gives. val keeps all its groups; it
only selects.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
import tempfile
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd

import gsr_core as gsr
from gsr_core.comparing.scores import outcome
from gsr_core.data.bundle import Bundle
from gsr_core.labelling.answers import add_answers
from gsr_core.labelling.bundles import hide_groups, labelled_bundle
from gsr_core.labelling.queue import ORDERS, label_queue
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

BUDGETS = (0, 16, 48, 112)
KEPT = 2
"""Rows of each group in target before anything is labelled."""
METHODS = ("gsr", "dfr")


def trial(place: Workspace, known: Bundle, order: str, seed: int) -> Iterator[dict[str, object]]:
    """Yield what each number of labels gives, and how many of them are of the rarest two groups.

    Args:
        place: Where.
        known: The example, with all groups.
        order: One of `ORDERS`.
        seed: Of what target keeps and of the random order.
    """
    truth = dict(zip(known.samples["sample_id"], known.group_labels, strict=True))
    rare = np.argsort(known.membership[known.rows_of["heldout"]].sum(axis=0))[:2]
    names = {known.group_names[g] for g in rare}
    bundle = hide_groups(place, known, f"{known.name}-{order}-0", keep=KEPT, seed=seed)
    runs, given = _runs(place, bundle), list[str]()
    yield _row(order, 0, runs, 0)
    for before, budget in pairwise(BUDGETS):
        count = budget - before
        queue = label_queue(place, bundle, order=order, run=runs["gsr"], count=count, seed=seed)
        fresh = [truth[each] for each in queue["sample_id"]]
        given += fresh
        add_answers(place, bundle, queue["row"].to_numpy(), fresh, order=order)
        bundle = labelled_bundle(place, bundle, f"{known.name}-{order}-{budget}")
        runs = _runs(place, bundle)
        yield _row(order, budget, runs, sum(each in names for each in given))


def _runs(place: Workspace, bundle: Bundle) -> dict[str, Run]:
    return {name: gsr.run(place, bundle.name, name, device="cpu") for name in METHODS}


def _row(order: str, labels: int, runs: dict[str, Run], rare: int) -> dict[str, object]:
    worst = {name: outcome(run, "test")[0]["worst_group_accuracy"] for name, run in runs.items()}
    return {"order": order, "labels": labels, **worst, "rare": rare}


def _cells(table: pd.DataFrame, order: str, labels: int) -> dict[str, str]:
    """Return mean and standard deviation over the seeds, by column."""
    at = table[(table["order"] == order) & (table["labels"] == labels)]
    worst = {name: f"{at[name].mean():.3f} ± {at[name].std():.3f}" for name in METHODS}
    return {**worst, "rare": f"{at['rare'].mean():.1f}"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workspace", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(options.workspace or folder)
        rows = []
        for seed in range(options.seeds):
            known = gsr.coloured_digits(place, seed=seed, name=f"digits-{seed}")
            for order in ORDERS:
                rows += [{"seed": seed, **each} for each in trial(place, known, order, seed)]
            print(f"seed {seed} done", flush=True)
    table = pd.DataFrame(rows)
    print(
        "| labels | " + " | ".join(f"{m}, {o}" for m in (*METHODS, "rare") for o in ORDERS) + " |"
    )
    for budget in BUDGETS:
        at = {order: _cells(table, order, budget) for order in ORDERS}
        cells = [at[order][name] for name in (*METHODS, "rare") for order in ORDERS]
        print(f"| {budget} | " + " | ".join(cells) + " |")
    print("\nabove random, of the same seed:")
    both = table.pivot(index=["seed", "labels"], columns="order", values=list(METHODS))
    for name, order in product(METHODS, ORDERS[:-1]):
        gain = both[name][order] - both[name]["random"]
        for budget in BUDGETS[1:]:
            each = gain.xs(budget, level="labels")
            counted = f"{(each > 0).sum()} of {len(each)} seeds"
            print(f"{name}, {order}, {budget} labels: {each.mean():+.3f}, in {counted}")


if __name__ == "__main__":
    main()
