"""The scan for shortcuts on the Audit page: what goes with the class, and where accuracy changes.

Nothing is read until it is asked for: measuring the inputs is a job.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from gsr_core.data.bundle import Bundle, bundle_reference
from gsr_core.errors import GsrError
from gsr_core.figures.compare import group_dots
from gsr_core.jobs.queue import start_job
from gsr_core.metrics import wilson_interval
from gsr_core.names import is_name
from gsr_core.phrases.vocabulary import read_vocabulary
from gsr_core.progress import Status
from gsr_core.runs.store import Run
from gsr_core.scanning.gaps import sure
from gsr_core.scanning.groups import groups_by
from gsr_core.scanning.job import MeasureJob
from gsr_core.scanning.measured import can_be_measured
from gsr_core.scanning.scan import VERDICTS, Scan
from gsr_core.shares import points
from gsr_core.views import navigation as nav
from gsr_core.views.charts import percent, plain, show, show_error, show_rows
from gsr_core.views.frame import link
from gsr_core.views.job_watch import needed_job, state_of
from gsr_core.views.loading import load_phrase_similarities, load_properties, load_scan
from gsr_core.views.phrases import takes_phrases
from gsr_core.views.session import workspace
from gsr_core.views.slices import offered_slice

__all__ = ["scan_for_shortcuts"]

_SHOWN = 6
"""Attributes that are shown with links; the tables below have all."""
_LABEL = 48
"""Characters of a name in the chart, which is as wide as the page."""
_EVERY = "every value"
_WORDS = "phrases of a scan"
"""Key of the session: by the bundle's digest, the vocabulary that a scan looks at too."""
_MADE = (
    "A new bundle of the same samples, whose groups are the classes by this attribute: every "
    "method can train with them, and every page shows them."
)
_COLOURS = dict(zip(VERDICTS[:3], ("red", "orange", "blue"), strict=True))


def scan_for_shortcuts(run: Run, split: str, bundle: Bundle) -> None:
    """Draw what may mislead a classifier, the most suspicious first.

    Args:
        run: The classifier.
        split: On whose rows it is judged.
        bundle: The data.

    Raises:
        GsrError: If there is nothing to look at.
    """
    measured = load_properties(bundle)
    if measured is None:
        _offer_to_measure(bundle)
    near = _phrases(bundle)
    found = load_scan(run, split, bundle, measured, near)
    counts = found.table["verdict"].value_counts()
    suspects, gaps, associated = (int(counts.get(each, 0)) for each in VERDICTS[:3])
    st.markdown(
        f"**{suspects:,} possible shortcut{'s' * (suspects != 1)}** among {len(found.table):,} "
        f"attributes, properties and phrases; {gaps:,} more with a gap alone, {associated:,} "
        "associated with the class alone."
    )
    if found.note:
        st.caption(plain(found.note))
    shown = found.table[found.table["verdict"] != ""].head(_SHOWN)
    make = partial(_make, bundle, measured, near)
    if len(shown):
        _gaps(found, shown, split)
        _rows(bundle, run, split, found, shown.to_dict("records"), make)
        if any(found.looked_at[name].numeric for name in shown["attribute"]):
            st.caption(
                "Numbers are cut at their median and at their lowest and highest quarter; > and ≤ "
                "say which. What goes with the class and where accuracy changes most need not be "
                "cut at the same number."
            )
    with st.container(horizontal=True):
        _make_groups(bundle, found, make)
        if takes_phrases(bundle):
            _ask_for_phrases(bundle)
    with st.expander("Every attribute in numbers"):
        _all(found)
    st.caption(
        f"Association: Cramér's V of attribute and class on the {found.learnt:,} samples of train "
        "and heldout; 0 is none, 1 is the class itself. Gap: accuracy of a class with the "
        f"attribute less that without, on {split}, where both sides have ten samples. Corrected "
        "for all that was looked at (Holm): where nothing goes together, either is named 5 times "
        "in 100. A possible shortcut is associated, and a class is worse where that misleads; "
        "whether it is part of the class, you know. Copies of a sample make chance look smaller "
        "than it is."
        + (" If test is to report, choose groups by what val shows." if split == "test" else "")
    )


def _offer_to_measure(bundle: Bundle) -> None:
    kind = can_be_measured(bundle)
    if not kind:
        return
    job = MeasureJob(bundle=bundle_reference(workspace(), bundle))
    state = state_of(job)
    if state is not None and (state.active or state.status is Status.FAILED):
        needed_job(job, f"The {kind}s could not be measured")
        return
    what = {
        "image": "brightness, colour, sharpness, border, size",
        "text": "length, negation, punctuation, capitals, script, language",
    }[kind]
    pressed = st.button(
        f"Measure the {kind}s of {len(bundle):,} samples",
        icon=":material/straighten:",
        key="measure",
        help=f"{what.capitalize()}: read once, by a job of its own, and kept.",
    )
    if pressed:
        start_job(workspace(), job)
        st.rerun()


def _phrases(bundle: Bundle) -> pd.DataFrame | None:
    """Return how near samples are to the phrases that were asked for; None without any."""
    typed = st.session_state.get(_WORDS, {}).get(bundle.manifest.digest)
    if typed is None:
        return None
    try:
        return load_phrase_similarities(bundle, typed)
    except GsrError as error:
        show_error(error)
        return None


def _ask_for_phrases(bundle: Bundle) -> None:
    """Draw the vocabulary whose phrases are looked at too."""
    asked = st.session_state.setdefault(_WORDS, {})
    digest = bundle.manifest.digest
    with st.popover("Also look at phrases", icon=":material/translate:", key="scan phrases"):
        st.caption(
            "How near each sample is to each phrase, by the network that the features come from; "
            "one a line. Give words that the network was trained on, and that name no class."
        )
        typed = st.text_area(
            "Vocabulary",
            value=asked.get(digest) or "\n".join(read_vocabulary()),
            height=140,
            key="scan vocabulary",
        )
        with st.container(horizontal=True):
            if st.button("Look at these", key="look at phrases", type="primary"):
                asked[digest] = typed
                st.rerun()
            if digest in asked and st.button("Without phrases", key="no phrases"):
                del asked[digest]
                st.rerun()


def _gaps(found: Scan, shown: pd.DataFrame, split: str) -> None:
    """Draw the accuracy with and without each attribute."""
    gaps = shown[shown["verdict"].isin(VERDICTS[:2])]
    if gaps.empty:
        return
    parts = []
    for row in gaps.to_dict("records"):
        name = f"{row['attribute']} {row['gap_side']}, {found.class_name(row['y'])}"
        for label in ("with", "without"):
            accuracy, n = row[f"accuracy_{label}"], row[f"n_{label}"]
            low, high = wilson_interval(accuracy, n)
            part = {"group": name, "label": label, "accuracy": accuracy}
            parts.append({**part, "low": float(low), "high": float(high)})
    show(
        group_dots(
            pd.DataFrame(parts),
            measure=f"accuracy on {split}, with 95 % interval",
            width=_LABEL,
        ),
        key="gaps",
        alt="Accuracy of a class with each attribute and without it.",
    )


def _rows(
    bundle: Bundle,
    run: Run,
    split: str,
    found: Scan,
    shown: list[dict[Any, Any]],
    make: Callable[[str, str, str], None],
) -> None:
    widths = [4, 4, 4, 4]
    with st.container(key="scan", gap="xsmall"):
        heads = ("attribute", "goes with", "accuracy without → with", "its samples, and groups")
        for place, head in zip(st.columns(widths, gap="xsmall"), heads, strict=True):
            place.caption(head)
        for row in shown:
            cells = st.columns(widths, gap="xsmall", vertical_alignment="center")
            colour = _COLOURS[row["verdict"]]
            alike = f", much as {plain(row['alike'])}" if row["alike"] else ""
            known = pd.notna(row["association"])
            strength = f", V {row['association']:.2f}" if known else ""
            cells[0].markdown(
                f"{plain(row['attribute'])}  \n:small[:{colour}[{row['verdict']}] · "
                f":gray[{row['source']}{strength}{alike}]]"
            )
            if row["side"]:
                name = plain(found.class_name(row["goes with"]))
                cells[1].markdown(
                    f"{plain(row['side'])} → {name}  \n:small[:gray[{percent(row['share'])} of "
                    f"these, {percent(row['usual'])} of all]]"
                )
            gap = pd.notna(row.get("delta"))
            if gap:
                cells[2].markdown(
                    f"{percent(row['accuracy_without'])} → {percent(row['accuracy_with'])}  \n"
                    f":small[:gray[{plain(found.class_name(row['y']))}, "
                    f"{plain(row['gap_side'])}: {points(row['delta'])}"
                    + ("]]" if row["verdict"] in VERDICTS[:2] else ", perhaps chance]]")
                )
            side = row["gap_side"] if gap else row["side"]
            y = found.class_name(row["y"]) if gap else None
            with cells[3].container(
                horizontal=True,
                vertical_alignment="center",
                key=f"scan samples {row['attribute']}",
            ):
                for there, text in ((True, side), (False, f"not {side}")):
                    rows = found.rows(row["attribute"], side, there=there)
                    count = row["n_with" if there else "n_without"] if gap else None
                    text += "" if count is None else f": {int(count):,}"
                    link(
                        "Samples",
                        plain(text),
                        run=run.run_id,
                        split=split,
                        y=y,
                        slice=offered_slice(bundle, rows),
                        sort="highest loss",
                        **dict.fromkeys(("group", "prediction", "changed", "sample")),
                    )
                by = row["attribute"]
                if st.button(
                    "As groups",
                    icon=":material/category:",
                    type="tertiary",
                    key=f"scan groups {by}",
                    help=f"{_MADE} Below, one side alone and another name can be chosen.",
                ):
                    make(_bundle_name(bundle, by), by, "")


def _make_groups(bundle: Bundle, found: Scan, make: Callable[[str, str, str], None]) -> None:
    with st.popover("Make groups of an attribute", icon=":material/category:"):
        st.caption(_MADE)
        by = str(st.selectbox("Attribute", list(found.table["attribute"]), key="scan by"))
        sides = [each.name for each in found.looked_at[by].sides]
        numeric = found.looked_at[by].numeric
        options = sides if numeric else [_EVERY, *sides]
        side = str(st.selectbox("Side", options, key=f"scan side {by}"))
        name = st.text_input(
            "Name of the bundle", value=_bundle_name(bundle, by), key=f"scan bundle {by}"
        )
        if st.button("Make the bundle", key="scan make"):
            make(name.strip(), by, "" if side == _EVERY else side)


def _bundle_name(bundle: Bundle, by: str) -> str:
    """Return the name that is proposed for a bundle of an attribute's groups."""
    words = re.sub("[^A-Za-z0-9]+", "-", by).strip("-")
    return f"{bundle.name}-by-{words or 'column'}"[:100]


def _make(
    bundle: Bundle,
    measured: pd.DataFrame | None,
    near: pd.DataFrame | None,
    name: str,
    by: str,
    side: str,
) -> None:
    """Write the bundle and open it, or show the error that prevents it."""
    if is_name(name) and (workspace().bundles / name).exists():
        st.info(f"Bundle '{plain(name)}' exists already; choose another name, or open it.")
        link("Setup", "Open it", bundle=name, run=None, runs=None, classifier=None, slice=None)
        return
    try:
        with st.spinner("Writing the bundle"):
            made = groups_by(workspace(), bundle, name, by, side, measured=measured, phrases=near)
    except GsrError as error:
        show_error(error)
        return
    nav.go("Setup", bundle=made.name, run=None, runs=None, classifier=None, slice=None)


def _all(found: Scan) -> None:
    table = found.table
    number = st.column_config.NumberColumn(format="%.2f")
    small = st.column_config.NumberColumn(format="%.2g")
    share = st.column_config.NumberColumn(format="percent")
    columns: dict[str, Any] = {
        "attribute": table["attribute"],
        "from": table["source"],
        "verdict": table["verdict"],
        "much as": table["alike"],
        "association": table["association"],
        "V from": table["low"],
        "V to": table["high"],
        "p (Holm)": table["p_holm"],
        "side": table["side"],
        "goes with": [found.class_name(each) for each in table["goes with"]],
    }
    if "delta" in table:
        columns |= {
            "class": [found.class_name(each) for each in table["y"]],
            "with": table["gap_side"],
            "accuracy with": table["accuracy_with"],
            "accuracy without": table["accuracy_without"],
            "samples with": table["n_with"],
            "samples without": table["n_without"],
            "gap p (Holm)": table["gap_p_holm"],
            "taken for": [found.class_name(each) for each in table["taken_for"]],
        }
    show_rows(
        columns,
        column_config={
            "attribute": st.column_config.Column(width="medium", pinned=True),
            **dict.fromkeys(("association", "V from", "V to"), number),
            **dict.fromkeys(("p (Holm)", "gap p (Holm)"), small),
            **dict.fromkeys(("accuracy with", "accuracy without"), share),
        },
    )
    if len(found.gaps):
        _every_gap(found)
    if found.left_out:
        reasons = "; ".join(f"{name}, {reason}" for name, reason in found.left_out.items())
        st.caption(f"Not looked at: {plain(reasons)}.")


def _every_gap(found: Scan) -> None:
    """Draw the table of every side and class, class by class, the surest gap first."""
    gaps = found.gaps.assign(size=sure(found.gaps))
    gaps = gaps.sort_values(["y", "size"], ascending=[True, False], kind="stable")
    share = st.column_config.NumberColumn(format="percent")
    change = st.column_config.NumberColumn(format="%+.1f pp")
    st.caption("Every class with and without each attribute, the surest gap of a class first.")
    show_rows(
        {
            "class": [found.class_name(each) for each in gaps["y"]],
            "attribute": gaps["attribute"],
            "with": gaps["side"],
            "accuracy with": gaps["accuracy_with"],
            "accuracy without": gaps["accuracy_without"],
            "gap": 100 * gaps["delta"],
            "gap from": 100 * gaps["low"],
            "gap to": 100 * gaps["high"],
            "samples with": gaps["n_with"],
            "samples without": gaps["n_without"],
            "gap p (Holm)": gaps["p_holm"],
            "taken for": [found.class_name(each) for each in gaps["taken_for"]],
        },
        key="every gap",
        column_config={
            "class": st.column_config.Column(width="medium", pinned=True),
            **dict.fromkeys(("accuracy with", "accuracy without"), share),
            **dict.fromkeys(("gap", "gap from", "gap to"), change),
            "gap p (Holm)": st.column_config.NumberColumn(format="%.2g"),
        },
    )
