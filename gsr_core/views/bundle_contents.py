"""What is in a bundle."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.data.bundle import MIN_GROUP_SIZE, SPLITS, Bundle
from gsr_core.views.charts import plain, show_rows
from gsr_core.views.face import strip
from gsr_core.views.import_source import in_rows

__all__ = [
    "backbone_facts",
    "group_counts",
    "group_table",
    "group_thumbnails",
    "notes",
    "size_table",
    "small_groups",
]

_NAMED = 6
"""Most small groups that the warning names."""
_NOTES = 8
_THUMBNAILS, _ALL_THUMBNAILS = 12, 96
"""Most images of a group, and of all groups if that leaves each `_LINES`."""
_LINES = 4
_WORDS = {
    "architecture": "Network",
    "checkpoint": "Weights from",
    "sha256": "SHA-256",
    "weights": "Published weights",
    "n_parameters": "Parameters",
    "n_features": "Features",
    "layer": "Cut before layer",
    "head": "Head",
    "training": "Trained by",
}
"""Labels of the facts about a backbone."""


def size_table(bundle: Bundle) -> pd.DataFrame:
    """Return split, group, count and share of the split, for `figures.groups.group_sizes`."""
    parts = []
    patterns, which = bundle.group_patterns
    for split in SPLITS:
        rows = bundle.rows_of[split]
        if not len(rows):
            continue
        count = np.bincount(which[rows], minlength=len(patterns)) @ patterns
        parts.append(
            pd.DataFrame(
                {
                    "split": split,
                    "group": bundle.group_names,
                    "count": count,
                    "share": count / len(rows),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def group_counts(bundle: Bundle) -> list[dict[str, Any]]:
    """Return `name`, `definition` and `counts` by split of each group, as in a preview."""
    counts: dict[str, dict[str, int]] = {name: {} for name in bundle.group_names}
    for row in size_table(bundle).to_dict("records"):
        counts[row["group"]][row["split"]] = int(row["count"])
    return [
        {**group.model_dump(), "counts": counts[group.name]} for group in bundle.manifest.groups
    ]


def group_table(groups: Sequence[Mapping[str, Any]], splits: Sequence[str], *, key: str) -> None:
    """Draw each group's definition and its size in each split, with small sizes marked.

    Args:
        groups: With `name`, `definition` and `counts` by split.
        splits: The splits that are there.
        key: Identity on the page.
    """
    table = pd.DataFrame(
        [
            {"group": each["name"], **each["counts"], "who belongs": each["definition"]}
            for each in groups
        ],
        columns=["group", *splits, "who belongs"],
    )
    counted: list[Hashable] = [split for split in splits if split in _counted(splits)]

    def mark(count: Any) -> str:
        # Readable on a light and on a dark page.
        return "background-color: rgba(230, 159, 0, 0.35)" if count < MIN_GROUP_SIZE else ""

    show_rows(
        table.style.map(mark, subset=counted).format("{:,}", subset=list[Hashable](splits)),
        key=key,
        column_config={
            "group": st.column_config.TextColumn(width="medium", pinned=True),
            "who belongs": st.column_config.TextColumn(width="large"),
        },
    )


def small_groups(groups: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> str:
    """Return one sentence on the groups that have too few samples; "" if there are none."""
    weighted, *_ = _counted(splits)
    parts = []
    for each in groups:
        few = [
            f"{each['counts'][split] or 'none'} in {split}"
            for split in splits
            if split in _counted(splits) and each["counts"][split] < MIN_GROUP_SIZE
        ]
        if few:
            parts.append(f"**{plain(each['name'])}** has {', '.join(few)}")
    if not parts:
        return ""
    more = f"; and {len(parts) - _NAMED} more groups" if len(parts) > _NAMED else ""
    return (
        f"Under {MIN_GROUP_SIZE} samples a group's accuracy says little, and in {weighted} there "
        f"is little to give weight to: {'; '.join(parts[:_NAMED])}{more}."
    )


def _counted(splits: Sequence[str]) -> tuple[str, ...]:
    """Return the splits that need some samples of each group, that of the weights first."""
    return ("heldout" if "heldout" in splits else "train", "target", "val", "test")


def notes(bundle: Bundle) -> None:
    """Draw the notes of the bundle, but those on small groups, which `small_groups` covers."""
    lines = [note for note in bundle.manifest.notes if not re.match(r"Group '.*' has ", note)]
    if lines:
        st.caption("\n".join(f"- {plain(note)}" for note in lines[:_NOTES]))


def backbone_facts(bundle: Bundle) -> None:
    """Draw the facts about the network behind the features, and the source of the rows."""
    head = bundle.head
    facts = {name: value for name, value in bundle.manifest.backbone.items() if value is not None}
    if head is not None and facts.get("head", "its own") == "its own":
        facts["head"] = (
            f"the network's own, {head[0].shape[0]} classes × {head[0].shape[1]} features"
        )
    facts.setdefault("head", "none")
    facts["source"] = bundle.manifest.source
    for column, (name, value) in zip(in_rows(len(facts), 2), facts.items(), strict=True):
        text = f"{value:,}" if isinstance(value, int) else str(value)
        if name == "sha256":
            text = f"{text[:16]}…"
        left, right = column.columns([2, 5], gap="small")
        left.caption(_WORDS.get(name, name.replace("_", " ").capitalize()))
        right.markdown(plain(text))


def group_thumbnails(bundle: Bundle, split: str) -> None:
    """Draw a strip of samples of each group, the same ones each time."""
    rows = bundle.rows_of[split]
    members = bundle.membership[rows]
    if not bundle.has_images and bundle.in_words(rows[:1]) is None:
        st.caption("This bundle holds no images, texts or tables to look at.")
        return
    most = _LINES
    if bundle.has_images:
        most = int(np.clip(_ALL_THUMBNAILS // len(bundle.group_names), _LINES, _THUMBNAILS))
    draw = np.random.default_rng(0)
    for g, name in enumerate(bundle.group_names):
        inside = rows[members[:, g]]
        st.markdown(f"**{plain(name)}** · {len(inside):,} in {split}")
        if not len(inside):
            st.caption("No sample in this split.")
            continue
        chosen = np.sort(draw.choice(inside, size=min(most, len(inside)), replace=False))
        with st.container(key=f"strip {g}"):
            strip(bundle, chosen, f"samples of {name}", width=76)
