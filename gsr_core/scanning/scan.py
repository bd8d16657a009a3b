"""The scan: which attribute goes with the class, and where accuracy changes with it.

A shortcut is learnt because it goes with the class where the classifier learns, and it shows where
the two part: a class is worse without it, or with what goes with the others. So each candidate is
asked both: its association with the class on the rows of train and heldout, and, of a run, the gap
of each class with and without it on a split. Whether what is found is spurious or a part of the
class, only a person can say.

The idea of asking accuracy with and without each attribute is that of section 7 of "Data-efficient
and Robust Deep Learning from Large Vision and Language Data" (UCLA), where a detector names what is
in an image. Here it is whatever is known of the inputs, what is cheap to measure, and, in place of
the detector, how near an image-text network finds each sample to the phrases of a vocabulary.

Both questions are asked of many columns, so that both p are corrected by Holm's procedure: where
nothing goes together, a scan names an association at most 5 times in 100, and so a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.comparing.mcnemar import LEVEL, holm
from gsr_core.data.bundle import Bundle, check_split
from gsr_core.errors import BundleError, SettingError
from gsr_core.plain import records
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run
from gsr_core.scanning.association import FEWEST_DRAWS, associate, cramers_v, most_draws
from gsr_core.scanning.candidates import Candidate, candidates
from gsr_core.scanning.gaps import find_gaps, sure
from gsr_core.scanning.measured import NOTE, can_be_measured
from gsr_core.settings import suggestion

__all__ = ["VERDICTS", "Scan", "check_run", "find_candidate", "scan"]

VERDICTS = ("possible shortcut", "gap", "associated", "")
"""From the most to the least: associated, and a class worse where that would mislead; a class
worse on one side; associated with the class; neither beyond chance."""

_ALIKE = 0.5
"""Cramér's V from which one attribute says much of what another does."""
_SAME = 0.95
"""Correlation from which two sides hold the same rows but for a few."""
_NAMEABLE = ("attribute", "column", "phrase", "measured")
"""Sources, from what people can name best: `colour` says more than `contrast > 0.11`."""
_MOST_ALIKE = 30
"""Attributes that are held against each other."""
_OF_PHRASES = (
    "Phrases: a sample is near to a word that the network does not know too, and where the head is "
    "wrong it is near to words of the other class, since both read the same features; look at the "
    "samples on both sides before you believe a phrase."
)
_MOST_NAMED = 20
"""Names of candidates in a sentence."""
_DRAWS_EACH = 40
"""Draws for each candidate, so that p after Holm's correction can fall to half of the level."""


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        table: One row a candidate, the most suspicious first: attribute, source (`attribute`,
            `column`, `measured` or `phrase`), cells, n (rows learnt from, with a value),
            association (V) with low and high, p and p_holm; side, the one that most goes with a
            class, of which `goes with` is the number, `share` is its part of the side's rows and
            `usual` of all rows;
            verdict, one of `VERDICTS`; alike, one above it with a verdict that tells much of the
            same, and alike_v, Cramér's V of the two, if that is half or more: of those that mark
            the same rows all name the first, which is an attribute or a column where there is one,
            else a phrase, else measured. Of a run also the
            gap that says most: gap_side, y, n_with, n_without, accuracy_with, accuracy_without,
            delta, delta_low, delta_high, gap_p_holm and taken_for as in `gaps.find_gaps`.
        gaps: One row a candidate, side and class, columns of `gaps.find_gaps`, p_holm, and lean:
            how much more often rows of the class are on the side than rows of others, where the
            classifier learnt.
        left_out: By name, why a column was not looked at.
        learnt: Rows of train and heldout.
        judged: Rows of the split on which the run was judged; 0 without one.
        note: What to know of the measured properties, the draws and the phrases; "" for nothing.
        looked_at: The candidates by name.
        classes: Names of the K classes.
    """

    table: pd.DataFrame
    gaps: pd.DataFrame
    left_out: dict[str, str]
    learnt: int
    judged: int
    note: str
    looked_at: dict[str, Candidate] = field(repr=False)
    classes: Sequence[str] = ()

    def record(self, most: int | None = None) -> dict[str, Any]:
        """Return it as plain values for JSON; classes by name, None where there is no number.

        Args:
            most: Only so many candidates, the first; None takes all, and every gap.
        """
        named = self.table.head(len(self.table) if most is None else most).copy()
        for column in ("goes with", "y", "taken_for"):
            if column in named:
                named[column] = [self.class_name(each) for each in named[column]]
        found = {
            "learnt": self.learnt,
            "judged": self.judged,
            "note": self.note,
            "looked_at": len(self.table),
            "attributes": records(named),
            "left_out": self.left_out,
        }
        if most is None and self.judged:
            gaps = self.gaps.copy()
            for column in ("y", "taken_for"):
                gaps[column] = [self.class_name(each) for each in gaps[column]]
            found["gaps"] = records(gaps)
        return found

    def class_name(self, number: float) -> str | None:
        """Return the name of a class by its number; None for none."""
        return self.classes[int(number)] if number >= 0 else None

    def rows(self, attribute: str, side: str, *, there: bool = True) -> np.ndarray:
        """Return the positions in the bundle of the rows on a side, of all splits.

        Args:
            attribute: Name of a candidate.
            side: Name of one of its sides.
            there: False returns the rows with a value that are not on the side.
        """
        candidate = self.looked_at[attribute]
        inside = candidate.inside(next(each for each in candidate.sides if each.name == side))
        return np.flatnonzero(inside if there else candidate.known & ~inside)


def scan(
    bundle: Bundle,
    run: Run | None = None,
    *,
    measured: pd.DataFrame | None = None,
    phrases: pd.DataFrame | None = None,
    split: str = "test",
    without: Sequence[str] = (),
    seed: int = 0,
) -> Scan:
    """Look for attributes that may mislead a classifier.

    Args:
        bundle: The data.
        run: A run on it that has ended, whose kept head is judged; None asks for associations
            alone.
        measured: Properties of the inputs, from `measure_inputs`.
        phrases: How near the samples are to some phrases, from `phrase_similarities`.
        split: On whose rows the run is judged, as it drew them.
        without: Names of attributes, columns, properties or phrases that are not looked at.
        seed: Of the draws.

    Raises:
        SettingError: If there is nothing to look at, or a name or the split is unknown.
        BundleError: If the run is of other data.
        RunStateError: If the run has no head yet.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> found = gsr.scan(bundle, gsr.run(place, "birds", "erm", device="cpu"))
        >>> found.table[["attribute", "side", "verdict"]].to_dict("records")
        [{'attribute': 'colour', 'side': 'red', 'verdict': 'associated'}]
    """
    looked_at, left_out = candidates(bundle, measured, phrases)
    names = [*(each.name for each in looked_at), *left_out]
    for name in without:
        if name not in names:
            raise SettingError(_unknown(name, names, bundle))
    looked_at = [each for each in looked_at if each.name not in without]
    left_out = {name: reason for name, reason in left_out.items() if name not in without}
    if not looked_at:
        raise SettingError(_nothing(bundle, left_out, measured))
    learnt = np.concatenate([bundle.rows_of["train"], bundle.rows_of["heldout"]])
    tables = [_counts(each, learnt, bundle) for each in looked_at]
    draws = max(FEWEST_DRAWS, _DRAWS_EACH * len(looked_at))
    table = pd.DataFrame(
        [
            _associated(each, counts, draws, seed)
            for each, counts in zip(looked_at, tables, strict=True)
        ]
    )
    measurable = table["association"].notna()
    table["p_holm"] = holm(np.where(measurable, table["p"], np.nan))
    gaps, judged = pd.DataFrame(), 0
    if run is not None:
        check_run(run, bundle, split)
        rows = run.rows_of(split, bundle)
        judged = len(rows)
        prediction = keep_scores(run, bundle)[rows]["prediction"].astype(np.int64)
        gaps = find_gaps(looked_at, rows, bundle.y[rows], prediction)
        gaps["p_holm"] = holm(gaps["p"].to_numpy(float))
        gaps["lean"] = _leans_of(gaps, looked_at, tables)
    by_name = {each.name: each for each in looked_at}
    table = _judged(table, gaps)
    table = _together(table, by_name, learnt)
    notes = [] if measured is None else [str(measured.attrs.get(NOTE, ""))]
    # Where p cannot fall below what Holm's correction asks, silence would look like an answer.
    if dumb := sum(most_draws(counts) < len(looked_at) / LEVEL for counts in tables):
        notes.append(
            f"With {len(bundle.manifest.classes):,} classes, too few draws are made to tell the "
            f"association of {dumb:,} of {len(looked_at):,} attributes from chance: look at fewer."
        )
    if phrases is not None:
        notes.append(_OF_PHRASES)
    return Scan(
        table=table,
        gaps=gaps,
        left_out=left_out,
        learnt=len(learnt),
        judged=judged,
        note=" ".join(filter(None, notes)),
        looked_at=by_name,
        classes=bundle.manifest.classes,
    )


def check_run(run: Run, bundle: Bundle, split: str) -> None:
    """Check that a run is of a bundle and has a head, and that the bundle has a split.

    Raises:
        BundleError: If the run is of other data.
        SettingError: If there is no such split.
        RunStateError: If the run has no head yet.
    """
    if run.config.bundle_digest != bundle.manifest.digest:
        raise BundleError(
            f"run '{run.run_id}' is of bundle '{run.config.bundle}', or of what it was before, not "
            f"of '{bundle.name}' as it is; give a run of this bundle ('gsr runs')"
        )
    check_split(bundle, split)
    run.kept_head()


def find_candidate(
    bundle: Bundle,
    name: str,
    measured: pd.DataFrame | None = None,
    phrases: pd.DataFrame | None = None,
) -> Candidate:
    """Return a candidate by its name.

    Raises:
        SettingError: If there is none of that name, or it cannot tell rows apart.
    """
    looked_at, left_out = candidates(bundle, measured, phrases)
    for each in looked_at:
        if each.name == name:
            return each
    if name in left_out:
        raise SettingError(f"'{name}' cannot tell rows apart: {left_out[name]}; choose another")
    known = [each.name for each in looked_at]
    raise SettingError(_unknown(name, known, bundle))


def _unknown(name: str, known: Sequence[str], bundle: Bundle) -> str:
    named = ", ".join(known[:_MOST_NAMED]) + " and others" * (len(known) > _MOST_NAMED)
    return (
        f"bundle '{bundle.name}' has no attribute, column, property or phrase '{name}' that a scan "
        f"looked at{suggestion(name, known)}; it has {named or 'none'} (phrases are looked at "
        "only if that is asked for)"
    )


def _nothing(bundle: Bundle, left_out: dict[str, str], measured: pd.DataFrame | None) -> str:
    """Say why a bundle has nothing to look at."""
    if measured is None and (kind := can_be_measured(bundle)):
        return (
            f"no column of bundle '{bundle.name}' can tell rows apart, but its {kind}s were not "
            "measured yet; measure them first"
        )
    if left_out:
        first, reason = next(iter(left_out.items()))
        more = f" ({len(left_out)} columns in all)" if len(left_out) > 1 else ""
        return (
            f"no column of bundle '{bundle.name}' can tell rows apart: of '{first}' {reason}{more};"
            " import the data with others, or with its images or texts"
        )
    return (
        f"bundle '{bundle.name}' has no attribute, no table, and neither images nor texts, so that "
        "there is nothing to look at; import the data with a column, or with its inputs"
    )


def _counts(candidate: Candidate, rows: np.ndarray, bundle: Bundle) -> np.ndarray:
    """Return (r, K) how many of some rows are in each cell and class."""
    shape = (candidate.n_cells, len(bundle.manifest.classes))
    return _crossed(candidate.codes[rows], bundle.y[rows], shape)


def _crossed(one: np.ndarray, other: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return how many rows have each pair of codes; -1 is none."""
    known = (one >= 0) & (other >= 0)
    place = np.ravel_multi_index((one[known], other[known]), shape)
    return np.bincount(place, minlength=int(np.prod(shape))).reshape(shape)


def _together(table: pd.DataFrame, by_name: dict[str, Candidate], rows: np.ndarray) -> pd.DataFrame:
    """Put what marks the same rows together in the ranked table, and add alike and alike_v.

    Of candidates of one verdict whose sides hold nearly the same rows, the one that people can name
    best takes the first place of all; the others follow it and are like it. What leads so is held
    against what leads above it, and first against what is like nothing itself.
    """
    count = min(int((table["verdict"] != "").sum()), _MOST_ALIKE)
    ranked = table.head(count).to_dict("records")
    named = [by_name[row["attribute"]] for row in ranked]
    marked = [_marked(row, each) for row, each in zip(ranked, named, strict=True)]

    def nearest(place: int, others: Sequence[int]) -> tuple[int, float] | None:
        found = [(other, _likeness(named[place], named[other], rows)) for other in others]
        found = [each for each in found if each[1] >= _ALIKE]
        return max(found, key=lambda each: each[1], default=None)

    families: list[list[int]] = []
    for place, row in enumerate(ranked):
        own = [
            family
            for family in families
            if ranked[family[0]]["verdict"] == row["verdict"]
            and _phi(marked[place], marked[family[0]]) >= _SAME
            and nearest(place, family[:1])
        ]
        own[0].append(place) if own else families.append([place])
    families = [
        sorted(family, key=lambda place: _NAMEABLE.index(named[place].source))
        for family in families
    ]
    like: dict[int, tuple[int, float] | None] = {}
    for number, (first, *others) in enumerate(families):
        above = [each[0] for each in families[:number]]
        alone = [each for each in above if like[each] is None]
        like[first] = nearest(first, alone) or nearest(first, above)
        like |= {each: nearest(each, [first]) for each in others}
    order = [place for family in families for place in family]
    told = [like[place] for place in order]
    rest = len(table) - count
    table = table.iloc[[*order, *range(count, len(table))]].reset_index(drop=True)
    table["alike"] = [named[each[0]].name if each else "" for each in told] + [""] * rest
    table["alike_v"] = [each[1] if each else np.nan for each in told] + [np.nan] * rest
    return table


def _marked(row: dict[Any, Any], candidate: Candidate) -> np.ndarray:
    """Return (n,) bool: the rows on the side of a candidate that its verdict is of."""
    name = row["gap_side"] if row["verdict"] in VERDICTS[:2] else row["side"]
    return candidate.inside(next(each for each in candidate.sides if each.name == name))


def _phi(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far two sets of rows are the same, or what the other leaves out; from 0 to 1."""
    n, a, b = len(one), int(one.sum()), int(other.sum())
    spread = float(a * (n - a)) * float(b * (n - b))
    return abs(n * int((one & other).sum()) - a * b) / spread**0.5 if spread else 0.0


def _likeness(one: Candidate, other: Candidate, rows: np.ndarray) -> float:
    """Return Cramér's V of two candidates on some rows."""
    counts = _crossed(one.codes[rows], other.codes[rows], (one.n_cells, other.n_cells))
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    return float(cramers_v(counts)) if min(counts.shape) > 1 else 0.0


def _leans(counts: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return (K,) how much more often rows of each class are on a side than those of others.

    Not a number where no row is on the side.
    """
    of_class, inside = counts.sum(axis=0), counts[cells].sum(axis=0)
    if not inside.any():
        return np.full(len(of_class), np.nan)
    with np.errstate(invalid="ignore"):
        return inside / of_class - (inside.sum() - inside) / (of_class.sum() - of_class)


def _associated(candidate: Candidate, counts: np.ndarray, draws: int, seed: int) -> dict[str, Any]:
    """Return a row of the table, without the correction and what a run adds."""
    found = associate(counts, draws=draws, seed=seed)
    row: dict[str, Any] = {
        "attribute": candidate.name,
        "source": candidate.source,
        "cells": candidate.n_cells,
        "n": int(counts.sum()),
        "association": found.value,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "side": "",
        "goes with": -1,
        "share": np.nan,
        "usual": np.nan,
    }
    leans = np.array([_leans(counts, side.cells) for side in candidate.sides])
    if np.isfinite(leans).any() and np.isfinite(found.value):
        # Of a class that is more common there; a side of few rows cannot have a large one.
        place, y = np.unravel_index(np.nanargmax(np.abs(leans)), leans.shape)
        side = candidate.sides[int(place)]
        if leans[place, y] < 0:
            y = int(np.nanargmax(leans[place]))
        inside = counts[side.cells].sum(axis=0)
        row |= {
            "side": side.name,
            "goes with": int(y),
            "share": float(inside[y] / inside.sum()) if inside.any() else np.nan,
            "usual": float(counts[:, y].sum() / counts.sum()),
        }
    return row


def _leans_of(
    gaps: pd.DataFrame, looked_at: Sequence[Candidate], tables: Sequence[np.ndarray]
) -> list[float]:
    """Return the lean of the side and class of each gap."""
    leans = {
        (each.name, side.name): _leans(counts, side.cells)
        for each, counts in zip(looked_at, tables, strict=True)
        for side in each.sides
    }
    places = zip(gaps["attribute"], gaps["side"], gaps["y"], strict=True)
    return [float(leans[attribute, side][y]) for attribute, side, y in places]


def _judged(table: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """Add verdicts and the gap that says most, and put the most suspicious first."""
    associated = table["p_holm"] < LEVEL
    if gaps.empty:
        table["verdict"] = np.where(associated, VERDICTS[2], VERDICTS[3])
        table["size"] = 0.0
    else:
        named = associated.set_axis(table["attribute"]).reindex(gaps["attribute"]).to_numpy()
        there = gaps["p_holm"] < LEVEL
        # Where the class is worse on the side that does not go with it, the head leans on it.
        misled = there & named & (gaps["lean"] * gaps["delta"] > 0)
        ordered = gaps.assign(size=sure(gaps), misled=misled, there=there).sort_values(
            ["misled", "there", "size"], ascending=False, kind="stable"
        )
        first = ordered.drop_duplicates("attribute").set_index("attribute")
        first = first.rename(
            columns={"side": "gap_side", "low": "delta_low", "high": "delta_high"}
        ).rename(columns={"p_holm": "gap_p_holm"})
        table = table.join(first.drop(columns=["p", "lean"]), on="attribute")
        misled, there = (table[name].fillna(False).astype(bool) for name in ("misled", "there"))
        table["verdict"] = np.select(
            [misled, there, associated], list(VERDICTS[:3]), default=VERDICTS[3]
        )
        table = table.drop(columns=["misled", "there"])
    order = table["verdict"].map(VERDICTS.index)
    # A gap that may be chance ranks nothing.
    known = table["verdict"].isin(VERDICTS[:2])
    ranked = table.assign(
        order=order,
        # What is known of an input comes before what a network takes it to be near to.
        near=table["source"] == "phrase",
        size=table["size"].where(known, 0.0),
    )
    ranked = ranked.sort_values(
        ["order", "near", "size", "association"],
        ascending=[True, True, False, False],
        kind="stable",
    )
    return ranked.drop(columns=["order", "near", "size"]).reset_index(drop=True)
