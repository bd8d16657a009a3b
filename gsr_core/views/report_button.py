"""A report on what a page shows, as a file to take along."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from gsr_core.comparing.entries import Entry
from gsr_core.runs.store import Run

__all__ = ["report_button", "report_on_all"]


def report_button(runs: Sequence[Run], *, against: Run | None = None, card: bool = True) -> None:
    """Draw a button that opens the choice of report and model card.

    Args:
        runs: Ended with a head, on the same data.
        against: What they are held against; the newest ERM on the same data if None.
        card: Whether to offer a model card too, which is of one setting.
    """
    key = "report " + " ".join(run.run_id for run in runs)
    with st.popover("Report", icon=":material/description:", key=key):
        st.caption("One file that opens without this dashboard and without a network.")
        samples = st.checkbox(
            "Show single samples",
            value=True,
            key=f"samples of {key}",
            help="Ids, pictures, texts and values of the samples of most and least weight.",
        )
        files = [(".html", "Report", "text/html")]
        files += [(".md", "Model card", "text/markdown")] * card
        for ending, label, mime in files:
            st.download_button(
                f"{label} ({ending})",
                data=partial(_file, runs, against, samples, ending),
                file_name=f"{runs[0].run_id}{ending}",
                mime=mime,
                on_click="ignore",
                icon=":material/download:",
                key=f"{label} of {key}",
            )


def report_on_all(compared: Sequence[Entry], reference: Entry) -> None:
    """Draw the button for a comparison.

    Args:
        compared: The entries, two at least.
        reference: The one that the others are held against.
    """
    runs = [run for entry in compared for run in entry.runs]
    report_button(runs, against=reference.runs[0], card=len(compared) == 2)


def _file(runs: Sequence[Run], against: Run | None, samples: bool, ending: str) -> bytes:
    # Here, not on top: pages wait for no library that only a report needs.
    from gsr_core.reports.facts import baseline_of, make_report
    from gsr_core.reports.writing import encode_report

    held = against or baseline_of(runs[0])
    return encode_report(make_report(runs, against=held, samples=samples), ending)
