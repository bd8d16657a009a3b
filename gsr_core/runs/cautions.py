"""What to beware of in a run's numbers."""

from __future__ import annotations

import pandas as pd

from gsr_core.data.bundle import MIN_GROUP_SIZE, Bundle
from gsr_core.errors import GsrError
from gsr_core.methods.history import choosing_split
from gsr_core.metrics import wilson_interval, worst_group
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run
from gsr_core.runs.summary import group_table

__all__ = ["cautions"]


def cautions(run: Run, bundle: Bundle | None = None) -> list[str]:
    """Return what to beware of in a run's numbers on test, one plain sentence each.

    - The head gives every sample of test the same class.
    - The worst group of test has fewer samples than `MIN_GROUP_SIZE`.
    - The step was chosen by the worst-group accuracy of val, of the groups that the method saw, and
      that of every step lies in the kept one's 95 % interval, although they are not equal. All are
      of the same samples, so that a pair of steps may still differ by more than chance; that the
      kept one is best may not.
    - The rows were edited by somebody who may have looked at test.

    Args:
        run: A run; nothing is said of one without a head.
        bundle: The run's bundle, if it is open already.
    """
    if run.head() is None:
        return []
    try:
        bundle = bundle or run.unchanged_bundle()
        rule = run.config.make_method().rule
    except GsrError:
        # Of other data, or of settings of another version: nothing is known of its numbers.
        return []
    said = []
    if run.config.edited:
        said.append(
            "The rows of another run were edited for this one: if the edit was chosen by what it "
            "does on test, test no longer tells how good the head is; choose edits by val."
        )
    predictions = keep_scores(run, bundle)[bundle.rows_of["test"]]["prediction"]
    if len(predictions) and (predictions == predictions[0]).all():
        label = bundle.manifest.classes[int(predictions[0])]
        said.append(
            f"The head gives every sample of test one class, '{label}': its accuracies say how "
            "common that class is, and nothing else."
        )
    history, kept = run.metrics(), run.state.best_step
    worst = _worst(history, "test", kept)
    if worst["count"] < MIN_GROUP_SIZE:
        low, high = wilson_interval(worst["accuracy"], worst["count"])
        said.append(
            f"The worst group of test, {worst['group']}, has {worst['count']} samples: its "
            f"accuracy is known to lie between {low:.0%} and {high:.0%}, no better."
        )
    choosing = choosing_split(history["split"].unique())
    of_val = history[
        (history["split"] == choosing)
        & (history["metric"] == "worst_group_accuracy")
        & (history["group"] == "")
    ].set_index("step")["value"]
    by_accuracy = rule.metric == "worst_group_accuracy" and not rule.last
    if by_accuracy and of_val.nunique() > 1:
        worst = _worst(history, choosing, kept)
        low, high = wilson_interval(worst["accuracy"], worst["count"])
        if of_val.between(low, high).all():
            said.append(
                f"Which of the {len(of_val):,} steps was kept may be chance: val has "
                f"{worst['count']} samples in its worst group, and the worst-group accuracy of "
                f"every step, {of_val.min():.0%} to {of_val.max():.0%}, lies in the 95 % interval "
                f"of the kept one, {low:.0%} to {high:.0%}."
            )
    return said


def _worst(history: pd.DataFrame, split: str, step: int) -> pd.Series:
    """Return the row of the worst group of a split at a step."""
    groups = group_table(history, split, step)
    return groups.iloc[worst_group(groups["accuracy"].to_numpy())]
