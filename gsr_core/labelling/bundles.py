"""Bundles of the same samples with other group labels: with those by hand, or with fewer, to try.

Features are linked, not copied, where all rows stay.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import bundle_directory, rewrite_bundle
from gsr_core.errors import SettingError
from gsr_core.labelling.answers import SKIPPED, add_answers, answers, membership_of
from gsr_core.workspace import Workspace

__all__ = ["answered", "hide_groups", "labelled_bundle"]


def answered(
    workspace: Workspace, bundle: Bundle, split: Literal["target", "test"] = "target"
) -> pd.DataFrame:
    """Return the answers that would move to a split: rows of `answers` that are no skips.

    Only rows that carry the weights move. Into target they all may; into test only those that were
    shown in random order: a queue picks rows that the classifier finds hard, on which it would seem
    worse than it is.

    Args:
        workspace: Where.
        bundle: Whose answers.
        split: Where they would move to.

    Raises:
        GsrError: If the file of answers cannot be read.
    """
    given = answers(workspace, bundle)
    weighted = bundle.rows_of[bundle.manifest.weighted_split]
    moves = (given["answer"] != SKIPPED) & given["row"].isin(weighted)
    return given[moves & (given["order"] == "random") if split == "test" else moves]


def labelled_bundle(
    workspace: Workspace,
    bundle: Bundle,
    name: str,
    *,
    split: Literal["target", "test"] = "target",
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle in which the answered rows have their groups, and those that may have moved.

    Rows that carried weights move to `split` and are in no other (`answered`). Rows of other splits
    stay where they are: the network was trained on those of train. What is still unknown stays so,
    and what was skipped counts as skipped there too.

    Args:
        workspace: Where.
        bundle: Whose answers.
        name: Of the new bundle.
        split: Where answered rows move to: `target` drives the weights, `test` reports.
        overwrite: Replace a bundle of that name.

    Raises:
        SettingError: If there is no answer that could move.
        BundleError: If the name is not allowed or taken, or what is left cannot be fitted.
        GsrError: If the file of answers cannot be read.

    Example:
        >>> from gsr_core.labelling.answers import add_answers, unlabelled
        >>> birds = hide_groups(place, gsr.open_bundle(place, "birds"), "unlabelled")
        >>> rows = birds.rows_of["heldout"][:2]
        >>> add_answers(place, birds, rows, ["cat, red", "cat, green"])
        >>> more = labelled_bundle(place, birds, "more")
        >>> more.manifest.split_sizes["heldout"], more.manifest.split_sizes["target"]
        (38, 42)
    """
    directory = bundle_directory(workspace, name, overwrite=overwrite)
    given = answers(workspace, bundle)
    known, moved = given[given["answer"] != SKIPPED], answered(workspace, bundle, split)
    weighted = bundle.manifest.weighted_split
    if not len(moved):
        raise SettingError(
            f"no row of {weighted} of bundle '{bundle.name}' "
            + (
                "was answered in random order, and a queue's rows are no fair test; answer some in "
                "random order first"
                if split == "test"
                else "has an answer yet; answer some on the page Label of 'gsr app', or with 'gsr "
                f"label {bundle.name} --import FILE'"
            )
        )
    samples, membership = bundle.samples.copy(), bundle.membership.copy()
    membership[known["row"].to_numpy()] = membership_of(bundle, known["answer"].tolist())
    samples.loc[moved["row"], "split"] = split
    made = rewrite_bundle(
        bundle,
        directory,
        samples,
        membership,
        source=f"{len(known):,} group labels by hand on '{bundle.name}': {bundle.manifest.source}",
        note=f"The groups of {len(known):,} rows were given by hand; {len(moved):,} of them were "
        f"rows of {weighted} and are in {split} here.",
        overwrite=overwrite,
    )
    skips = given[given["answer"] == SKIPPED]
    add_answers(
        workspace,
        made,
        skips["row"].to_numpy(np.int64),
        skips["answer"].tolist(),
        by=skips["by"].tolist(),
        at=skips["at"].tolist(),
        order=skips["order"].tolist(),
    )
    return made


def hide_groups(
    workspace: Workspace,
    bundle: Bundle,
    name: str,
    *,
    keep: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle that hides what labelling would tell, to try it on data that is known.

    No row of train and of heldout has a group, nor a value of an attribute that defines the groups.

    Args:
        workspace: Where the new bundle goes.
        bundle: The data.
        name: Of the new bundle.
        keep: Rows of each group that stay in target; the others are in no split, and not in the
            bundle. None keeps all.
        seed: Which of them stay.
        overwrite: Replace a bundle of that name.

    Raises:
        SettingError: If `keep` is less than 1.
        BundleError: If the name is not allowed or taken.

    Example:
        >>> birds = hide_groups(place, gsr.open_bundle(place, "birds"), "hidden", keep=2)
        >>> birds.manifest.split_sizes["target"], birds.group_labels[birds.rows_of["heldout"][0]]
        (8, 'unknown')
    """
    if keep is not None and keep < 1:
        raise SettingError(f"keep is {keep}; keep 1 row of each group in target or more")
    directory = bundle_directory(workspace, name, overwrite=overwrite)
    hidden = np.sort(np.concatenate([bundle.rows_of["train"], bundle.rows_of["heldout"]]))
    membership = bundle.membership.copy()
    membership[hidden] = False
    samples = bundle.samples.copy()
    definitions = [group.definition for group in bundle.manifest.groups]
    telling = [
        each
        for each in bundle.manifest.attributes
        if any(re.search(rf"(^|and |\(){re.escape(each)} ", text) for text in definitions)
    ]
    for each in telling:
        samples[each] = samples[each].astype(object)
        samples.loc[hidden, each] = None
    rows = np.arange(len(bundle))
    if keep is not None:
        target = np.random.default_rng(seed).permutation(bundle.rows_of["target"])
        among_first = bundle.membership[target].cumsum(axis=0) <= keep
        kept = (among_first & bundle.membership[target]).any(axis=1)
        rows = np.setdiff1d(rows, target[~kept])
    return rewrite_bundle(
        bundle,
        directory,
        samples,
        membership,
        source=f"group labels hidden of '{bundle.name}': {bundle.manifest.source}",
        note="The groups of train and heldout are hidden, to try what labelling some would bring.",
        rows=rows,
        without=telling,
        overwrite=overwrite,
    )
