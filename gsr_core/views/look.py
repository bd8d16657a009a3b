"""Where networks look: in one sample, and on the object or beside it.

Nothing is opened or computed before somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from gsr_core.comparing.changes import shared_run
from gsr_core.comparing.entries import Entry
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.figures.looking import maps_beside, marked_text, overlap_dots
from gsr_core.looking import PER_GROUP
from gsr_core.looking.looker import ImageLook, TextLook
from gsr_core.looking.measure import Overlaps
from gsr_core.runs.store import Run
from gsr_core.runs.summary import run_label
from gsr_core.views.charts import plain, sentence, show, show_rows
from gsr_core.views.loading import load_look, load_overlaps, load_region_columns
from gsr_core.views.session import runs_of

__all__ = ["before_and_after", "on_the_object", "where_it_looks", "where_they_look"]

_DRAWN = 64
"""Numbers a side that are drawn of a map."""
_COUNTS = (20, PER_GROUP, 500)


def before_and_after(bundle: Bundle, run: Run) -> dict[str, Run]:
    """Return the classifier as it came and a run, by their labels; one if they are the same."""
    first = next((each for each in _ended(bundle) if each.config.is_erm), run)
    return _by_label([first] if first.run_id == run.run_id else [first, run])


def _ended(bundle: Bundle) -> list[Run]:
    """Return the runs that can be looked through, newest first, without the parts of studies."""
    return [run for run in runs_of(bundle) if run.head_file.exists() and not run.config.part_of]


def _by_label(runs: list[Run]) -> dict[str, Run]:
    """Return runs by their labels, and with their ids where labels are the same."""
    labels = [run_label(run) for run in runs]
    return {
        label if labels.count(label) == 1 else f"{label} ({run.run_id})": run
        for label, run in zip(labels, runs, strict=True)
    }


def where_it_looks(bundle: Bundle, run: Run, row: int) -> None:
    """Draw where networks look in a sample, once it is asked for: before a repair and after.

    Args:
        bundle: The data.
        run: The run that the page shows.
        row: Position in the bundle.
    """
    asked = st.toggle(
        "Where it looks",
        key="detail look",
        help="Sends the sample through the network once more, to see which places of an image, or "
        "words of a text, the scores come from.",
    )
    if not asked:
        return
    others = _by_label([each for each in _ended(bundle) if each.run_id != run.run_id])
    labels, classes = list(others), bundle.manifest.classes
    default = next((n for n, label in enumerate(labels) if others[label].config.is_erm), 0)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        named = st.selectbox(
            "Evidence for",
            classes,
            index=int(bundle.y[row]),
            key=f"detail look class {row}",
            width=200,
        )
        beside = (
            st.selectbox("Beside", labels, index=default, key=f"detail look beside {run.run_id}")
            if labels
            else None
        )
    # The classifier as it came is the one before.
    shown = [run] if beside is None else [others[beside], run]
    shown.sort(key=lambda each: not each.config.is_erm)
    try:
        looks = {label: load_look(each, row) for label, each in _by_label(shown).items()}
    except GsrError as error:
        st.info(sentence(error))
        return
    k = classes.index(named)
    images = {label: each for label, each in looks.items() if isinstance(each, ImageLook)}
    if images:
        _draw_maps(images, k, named)
    else:
        _draw_words({n: each for n, each in looks.items() if isinstance(each, TextLook)}, k, named)


def _draw_maps(looks: Mapping[str, ImageLook], k: int, named: str) -> None:
    first = next(iter(looks.values()))
    maps = {label: each.drawn(_DRAWN)[k] for label, each in looks.items()}
    figure = maps_beside(first.seen, maps, class_name=named, unit="nats a place")
    show(figure, key="detail maps", alt=f"What speaks for and against {named} in the image.")
    height, width = first.maps.shape[1:]
    exact = all(each.pooled for each in looks.values())
    sums = ", ".join(f"{plain(label)} {each.scores[k]:+.2f}" for label, each in looks.items())
    st.caption(
        f"Orange speaks for {plain(named)}, blue against it; one scale for all. "
        + (
            f"The network keeps {height} x {width} places, drawn smoothly; with the head's bias "
            f"they add up to the score less the mean score of the classes: {sums} nats."
            if exact
            else f"Grad-CAM of the layer '{plain(first.layer)}', {height} x {width} places, drawn "
            "smoothly; its numbers do not add up to the score."
        )
    )


def _draw_words(looks: Mapping[str, TextLook], k: int, named: str) -> None:
    most = max(each.strongest(k) for each in looks.values())
    for label, each in looks.items():
        st.caption(plain(label))
        for pieces, effects in zip(each.pieces, each.effects, strict=True):
            st.html(marked_text(pieces, effects[k], most=most))
    st.caption(
        f"Orange: without these words the score of {plain(named)} falls, by up to {most:.2g} nats; "
        "blue: it rises. One scale for all; the number is there when words are pointed at."
    )


def where_they_look(bundle: Bundle, reference: Entry, other: Entry) -> None:
    """Draw whether two entries look at the object, once it is asked for.

    Args:
        bundle: The data.
        reference: The entry before.
        other: The entry after.
    """
    st.subheader("Where do they look?", anchor=False)
    asked = st.toggle(
        "Measure whether they look at the object",
        key="compare look",
        help="For images with boxes or masks: looks through the network at samples of each group.",
    )
    if not asked:
        return
    one, two = shared_run(reference, other)
    try:
        on_the_object({reference.label: one, other.label: two}, "test", bundle)
    except GsrError as error:
        st.info(sentence(error))


def on_the_object(runs: Mapping[str, Run], split: str, bundle: Bundle) -> None:
    """Draw AIoU of each group for some runs, and let the column of the objects be chosen.

    Args:
        runs: By label; the first is the one before a repair.
        split: The split whose samples are looked at.
        bundle: The data.

    Raises:
        GsrError: If it cannot be measured.
    """
    columns = load_region_columns(bundle)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        column = (
            st.selectbox("Where the object is", columns, key="look region", width=260)
            if columns
            else ""
        )
        count = st.selectbox("Samples of each group", _COUNTS, key="look count", width=200)
    found = load_overlaps(list(runs.values()), split, column, count)
    labels = {run.run_id: label for label, run in runs.items()}
    _draw_totals(found, labels)
    table = found.groups.assign(label=found.groups["run"].map(labels))
    figure = overlap_dots(table[["label", "group", "aiou", "low", "high"]], split=split)
    show(figure, key="look groups", alt="AIoU of each group under each run.")
    st.caption(
        "AIoU: how far the map of the right class lies on the object, beside the map of the class "
        "that rivals it there. 1: only the right class finds its evidence there; 0.5: another "
        "finds as much, or none does. Each map is cut at zero and brought from its least and "
        "largest value to 0 and 1. What every image has can speak for one class, so that all its "
        "groups are high and the other's low: read them against each other, and before against "
        "after. Bars: 95 % intervals of the mean over the samples looked at."
    )
    with st.expander("AIoU in numbers"):
        _numbers(found, labels)


def _draw_totals(found: Overlaps, labels: Mapping[str, str]) -> None:
    first, *rest = found.totals.to_dict("records")
    with st.container(horizontal=True):
        for name, title, about in (
            ("mean", "Mean AIoU", "Groups count by their size in the split."),
            (
                "worst",
                f"Worst group: {plain(found.worst_group)}",
                "The group of the lowest accuracy before the repair.",
            ),
            ("lowest", "Lowest AIoU of a group", "Whichever group that is."),
        ):
            last = rest[-1] if rest else first
            st.metric(
                title,
                f"{last[name]:.3f}",
                delta=f"{last[name] - first[name]:+.3f}" if rest else None,
                border=True,
                help=f"Of {plain(labels[last['run']])}. {about}",
            )


def _numbers(found: Overlaps, labels: Mapping[str, str]) -> None:
    groups = found.groups
    number, change = (st.column_config.NumberColumn(format=each) for each in ("%.3f", "%+.3f"))
    show_rows(
        {
            "group": groups["group"],
            "run": groups["run"].map(labels),
            "looked at": groups["n"],
            "accuracy": groups["accuracy"],
            "AIoU": groups["aiou"],
            "from": groups["low"],
            "to": groups["high"],
            "change": groups["change"],
            "change from": groups["change_low"],
            "change to": groups["change_high"],
        },
        column_config={
            "group": st.column_config.Column(width="medium", pinned=True),
            "accuracy": st.column_config.NumberColumn(format="percent"),
            **dict.fromkeys(("AIoU", "from", "to"), number),
            **dict.fromkeys(("change", "change from", "change to"), change),
        },
    )
