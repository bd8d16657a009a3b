"""A report as one HTML file that needs nothing else.

Text is escaped by the template library; the file has no script, and its content policy keeps a
browser from asking for anything, whatever a name in it says. Charts are drawn here, as SVG.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from gsr_core.figures import static, theme
from gsr_core.reports.facts import Report, RunFacts
from gsr_core.reports.templates import templates

__all__ = ["as_html"]


def as_html(report: Report) -> str:
    """Return a report as a page."""
    names = [group.name for group in report.manifest.groups]
    colours = theme.group_colours(names)
    worst = [row for row in report.result["paired"] if row["metric"] == "worst_group_accuracy"]
    return (
        templates(autoescape=True)
        .get_template("report.html")
        .render(
            report=report,
            result=report.result,
            manifest=report.manifest,
            after=report.after,
            before=report.before,
            accuracies=_by_group(report),
            verdicts={row["entry"]: row for row in worst},
            dots=_dots(report),
            # What is new stands before what everybody knows.
            runs=[(run, _lines(run, colours)) for run in [*report.runs[1:], report.runs[0]]],
        )
    )


def _by_group(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Return by group what each entry reaches on it, in the order of the entries."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in report.result["entries"]:
        for row in entry["groups"]:
            found.setdefault(row["group"], []).append(row)
    return found


def _dots(report: Report) -> Markup:
    chosen = report.result["entries"]
    rows = [
        {
            "label": entry["label"],
            "group": row["group"],
            "accuracy": row["mean"],
            "low": row["low"],
            "high": row["high"],
        }
        for entry in chosen
        for row in entry["groups"]
    ]
    table = pd.DataFrame(rows).astype({"accuracy": float, "low": float, "high": float})
    colours = theme.run_colours([entry["label"] for entry in chosen])
    return Markup(static.dots(table, colours))


def _lines(run: RunFacts, colours: dict[str, str]) -> Markup:
    """Return the chart of a run's weights over the steps; nothing for one step, or for none."""
    if run.history["step"].nunique() < 2:
        return Markup("")
    share = {row["group"]: row["data"] for row in run.weights}
    known = run.history[run.history["group"].isin(share)]
    return Markup(static.lines(known, share, run.step, colours))
