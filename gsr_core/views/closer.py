"""The closer looks of the Audit page: offsets, thresholds, calibration, fairness, shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.comparing.bootstrap import Bootstrap
from gsr_core.comparing.operating import AVERAGE_NAMES, OperatingPoints
from gsr_core.curation.tables import curated
from gsr_core.data.attributes import MOST_VALUES
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.figures.compare import group_dots
from gsr_core.figures.operating import errors_by_threshold, reliability_curves, scaling_path
from gsr_core.runs.export import export_archive
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.audit import show_quality
from gsr_core.views.charts import colours_of, percent, plain, sentence, show, show_rows
from gsr_core.views.frame import link
from gsr_core.views.loading import (
    load_fairness,
    load_operating,
    load_quality,
    load_reliability,
    load_thresholds,
    load_values,
)
from gsr_core.views.look import before_and_after, on_the_object
from gsr_core.views.scan import scan_for_shortcuts

__all__ = ["closer_look"]

_TRADES = [f"{tenth / 10:g}" for tenth in range(11)]
_COSTS = ("0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "20")
_FIRST_PANELS = 8
"""Groups whose reliability is drawn while none is chosen."""


def closer_look(run: Run, split: str, bundle: Bundle) -> None:
    """Draw the choice of a closer look, and the one that is chosen.

    Args:
        run: The classifier.
        split: The split that the page is on.
        bundle: The data.
    """
    looks: Mapping[str, Callable[[Run, str, Bundle], None]] = {
        "In numbers": show_quality,
        "Class scaling": _scaling,
        "Thresholds": _thresholds,
        "Calibration": _calibration,
        "Fairness": _fairness,
        "Shortcuts": scan_for_shortcuts,
        "Where it looks": _looking,
    }
    st.subheader("Look closer", anchor=False)
    chosen = nav.select(
        "closer",
        "What to look at",
        ["", *looks],
        draw=_pills,
        label_visibility="collapsed",
    )
    if not chosen:
        st.caption(
            "Gaps, recall and ranking in numbers; what other thresholds alone would do; whether "
            "the head knows how sure it may be; whether the values of an attribute are treated "
            "alike; which attribute or property of the inputs may mislead it; whether the network "
            "looks at the object."
        )
        return
    try:
        looks[chosen](run, split, bundle)
    except GsrError as error:
        st.info(sentence(error))


def _pills(label: str, options: list[str], **arguments: object) -> None:
    """Draw all options but the first, which stands for none of them."""
    st.pills(label, options[1:], **arguments)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _scaling(run: Run, split: str, bundle: Bundle) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        trade = nav.select(
            "trade",
            "Weight of the worst group",
            _TRADES,
            default="1",
            draw=st.select_slider,
            width=420,
            help="Offsets are chosen on val for the highest sum of worst-group and average "
            "accuracy with these weights: 1 asks for the worst group alone, 0 for the average.",
        )
        average = nav.select(
            "average",
            "Average",
            list(AVERAGE_NAMES),
            format_func=lambda key: AVERAGE_NAMES[key],
            width=220,
            help="Mean: all samples count the same. Of the groups: all groups do. Adjusted: groups "
            "count by their share of the training set.",
        )
    found = load_operating(run, split, float(trade), average)
    _say_what_scaling_does(found, bundle, split, AVERAGE_NAMES[average])
    left, right = st.columns([3, 2], gap="large")
    with left:
        path = found.path.assign(
            about=[_in_words(offset, bundle.manifest.classes) for offset in found.path["offset"]]
        )
        figure = scaling_path(path, found.points, split=split, average_name=AVERAGE_NAMES[average])
        show(
            figure,
            key="scaling",
            alt="Worst-group against average accuracy as the classes' multipliers move.",
        )
    with right:
        show(
            group_dots(_by_point(found), measure=f"accuracy on {split}, with 95 % interval"),
            key="scaling groups",
            alt="Accuracy of each group as it is and with the chosen offsets.",
        )
    _take(run, found.by_class, key="scaling")
    if run.config.is_erm and trade == "1":
        st.caption(
            "The method *RS: class scaling* makes a run of exactly these, with which Compare and "
            "studies can go on."
        )
        link("Run", "Make it a run")


def _say_what_scaling_does(
    found: OperatingPoints, bundle: Bundle, split: str, average_name: str
) -> None:
    own, chosen = found.points.to_dict("records")
    with st.container(horizontal=True):
        for name, label in (("worst", "Worst group"), ("average", average_name.capitalize())):
            change = found.change[name]
            st.metric(
                f"{label} on {split}",
                percent(chosen[name]),
                delta=f"{100 * change.difference:+.1f} pp [{100 * change.low:+.1f}, "
                f"{100 * change.high:+.1f}]",
                delta_color=_colour(change),
                border=True,
                help=f"With the offsets that val chose, and the change from {percent(own[name])} "
                "with a 95 % interval: samples drawn anew 5,000 times within the groups. Grey: "
                "not distinguishable from none.",
            )
    classes = bundle.manifest.classes
    st.caption(
        f"Multiplying the scores of the classes moves only the thresholds between them: "
        f"{plain(_in_words(found.offset, classes))}. Chosen on val, where the worst group went "
        f"from {percent(own['val_worst'])} to {percent(chosen['val_worst'])}"
        + ("; here it flatters, look at test." if split == "val" else ".")
    )


def _colour(change: Bootstrap) -> Literal["normal", "off"]:
    return "normal" if change.low > 0 or change.high < 0 else "off"


def _in_words(offset: np.ndarray, classes: list[str]) -> str:
    """Return the multipliers of the classes, of many only those that are furthest from one."""
    moved = sorted(np.flatnonzero(offset), key=lambda place: -abs(offset[place]))
    if not moved:
        return "no class is multiplied"
    said = [f"{classes[place]} × {np.exp(offset[place]):.3g}" for place in moved[:4]]
    more = len(moved) - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")


def _by_point(found: OperatingPoints) -> pd.DataFrame:
    """Return the table of `figures.compare.group_dots`, one label a point."""
    parts = []
    for point, label in zip(("own", "chosen"), found.points["point"], strict=True):
        names = {f"{point}_{each}": each for each in ("accuracy", "low", "high")}
        part = found.groups[["group", *names]].rename(columns=names)
        parts.append(part.assign(label=label))
    return pd.concat(parts, ignore_index=True)


def _take(run: Run, offset: dict[str, float], *, key: str) -> None:
    """Draw the button that takes the head with offsets home."""
    st.download_button(
        "Export the head with these offsets",
        data=lambda: export_archive(run, offset=offset, tables=curated(run.workspace, run.bundle)),
        file_name=f"{run.run_id}-offsets.zip",
        mime="application/zip",
        on_click="ignore",
        icon=":material/download:",
        key=f"export {key}",
        disabled=not any(offset.values()),
        help="The export of the run, with the offsets added to the biases of its head.",
    )


def _thresholds(run: Run, split: str, bundle: Bundle) -> None:
    cost = nav.select(
        "cost",
        "Cost of a missed sample of the rarer class, in false alarms",
        list(_COSTS),
        default="1",
        draw=st.select_slider,
        width=520,
    )
    found = load_thresholds(run, split, float(cost))
    change, low, high = (1000 * each for each in found.change)
    with st.container(horizontal=True):
        st.metric(
            f"{plain(found.positive)} from a probability of",
            f"{found.threshold:.3g}",
            border=True,
            help="The threshold of the least cost on val. The other class is predicted from 1 "
            f"less that on. A calibrated head would have {found.calibrated:.3g}.",
        )
        st.metric(
            f"Cost of 1,000 samples of {split}",
            f"{1000 * found.cost[1]:.0f} false alarms",
            delta=f"{change:+.0f} [{low:+.0f}, {high:+.0f}] against a threshold of 0.5",
            delta_color="inverse" if low > 0 or high < 0 else "off",
            border=True,
            help="With a 95 % interval: samples drawn anew within the classes. Grey: not "
            "distinguishable from none.",
        )
    figure = errors_by_threshold(
        found.curve,
        threshold=found.threshold,
        positive=found.positive,
        colours=colours_of(bundle),
    )
    show(figure, key="thresholds", alt="Share of each group that is wrong at each threshold.")
    groups = found.groups
    show_rows(
        {
            "group": groups["group"],
            "samples": groups["n"],
            **{
                kind: [
                    f"{own:,} → {chosen:,}"
                    for own, chosen in zip(
                        groups[f"own_{name}"], groups[f"chosen_{name}"], strict=True
                    )
                ]
                for kind, name in (("missed", "missed"), ("false alarms", "false"))
            },
        },
        column_config={"group": st.column_config.Column(width="medium", pinned=True)},
    )
    st.caption(
        f"Missed: {plain(found.positive)} taken for {plain(found.negative)}; false alarms: the "
        f"other way round; counts at 0.5 → as chosen. The threshold is chosen on val; curve and "
        f"counts are of {split}."
    )
    _take(run, found.by_class, key="thresholds")


def _calibration(run: Run, split: str, bundle: Bundle) -> None:
    curves, numbers = load_reliability(run, split), load_quality(run, split)
    numbers = numbers.set_index("group")
    # Those first that exceed what chance explains by most.
    beyond = (numbers["calibration"] - numbers["calibration_chance"]).sort_values(ascending=False)
    named = list(numbers.index[numbers["kind"] == "group"])
    first = [name for name in beyond.index if name in set(named)][:_FIRST_PANELS]
    chosen = st.multiselect(
        "Groups and values of attributes",
        list(numbers.index),
        default=[name for name in named if name in set(first)],
        key=f"reliability {run.run_id} {split}",
        help=f"Up to {_FIRST_PANELS} groups are drawn at first: those whose calibration error "
        "exceeds what chance explains by most.",
    )
    panels = curves[curves["group"].isin(chosen)]
    order = {name: place for place, name in enumerate(chosen)}
    panels = panels.sort_values("group", key=lambda names: names.map(order), kind="stable")
    notes = {
        name: f"error {row['calibration']:.3f}, chance {row['calibration_chance']:.3f}<br>"
        f"Brier {row['brier']:.3f}, n = {int(row['n']):,}"
        for name, row in zip(numbers.index, numbers.to_dict("records"), strict=True)
    }
    figure = reliability_curves(panels, notes, colours=colours_of(bundle))
    show(figure, key="reliability", alt="Accuracy against confidence in each chosen group.")
    st.caption(
        "Each mark is a bin of equally many samples: mean confidence in the predicted class, and "
        "share that is right. Below the dotted line the head is too sure. The band is what a "
        "calibrated head shows 95 times in 100; marks outside it have a ring. Error: the "
        "calibration error, beside what a calibrated head stays below 95 times in 100. Brier "
        "score: summed over the classes, from 0 (sure and right) to 2"
        + (
            "; half of it is the score with one probability."
            if len(bundle.manifest.classes) == 2
            else "."
        )
    )


def _fairness(run: Run, split: str, bundle: Bundle) -> None:
    attributes = [
        name for name, values in load_values(bundle, MOST_VALUES).items() if len(values) > 1
    ]
    if not attributes:
        st.info(
            f"The bundle has no attribute with 2 to {MOST_VALUES} values to compare; import the "
            "data with a column that has, such as who or what is shown."
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        attribute = nav.select("over", "Attribute", attributes, width=260)
        found = load_fairness(run, split, attribute)
        classes = bundle.manifest.classes
        by_class = found.by_class.assign(name=[classes[each] for each in found.by_class["class"]])
        worst = str(by_class["name"].iloc[by_class["odds_difference"].fillna(-1).argmax()])
        shown = worst
        if len(by_class) > 1:
            shown = nav.select("held", "Class", list(by_class["name"]), default=worst, width=260)
    several = len(by_class) > 1
    with st.container(horizontal=True):
        for name, label in (("odds", "Equalised odds"), ("parity", "Demographic parity")):
            difference, low, high, chance, ratio = (
                found.overall[f"{name}_{each}"]
                for each in ("difference", "low", "high", "chance", "ratio")
            )
            st.metric(
                f"{label} difference" + (", largest of any class" if several else ""),
                f"{100 * difference:.1f} pp",
                delta=f"95 % interval {100 * low:.1f} to {100 * high:.1f}; by chance up to "
                f"{100 * chance:.1f}; ratio {ratio:.2f}",
                delta_color="off" if difference <= chance else "inverse",
                delta_arrow="off",
                border=True,
                help=_MEANING[name],
            )
    rates = found.rates[found.rates["class"] == classes.index(shown)]
    table = rates.rename(columns={"value": "label", "rate": "group", "share": "accuracy"})
    figure = group_dots(table, measure=f"share predicted as {shown} on {split}")
    show(figure, key="fairness", alt="Shares predicted as the class, for each attribute value.")
    small = found.smallest < 20
    st.caption(
        f"Predicted: of all samples of a value. Recall: of those of {plain(shown)}. False alarms: "
        "of those of other classes. Bars are 95 % Wilson intervals. "
        + ("Each class is held against the rest. " if several else "")
        + f"The smallest cell of label and value has {found.smallest:,} samples"
        + (", too few to judge." if small else ".")
    )


def _looking(run: Run, split: str, bundle: Bundle) -> None:
    on_the_object(before_and_after(bundle, run), split, bundle)


_MEANING = {
    "odds": "The larger of two gaps between the highest and the lowest value of the attribute: of "
    "recall, and of false alarms. A head that treats all values alike stays below what is said to "
    "be by chance 95 times in 100.",
    "parity": "How far apart the values of the attribute are in how often the class is predicted, "
    "whatever the samples are. Values that differ in how common the class is differ here too.",
}
