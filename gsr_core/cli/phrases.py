"""`gsr search`, `gsr zeroshot` and `gsr words`: samples by phrases, and phrases for samples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gsr_core.cli import terminal
from gsr_core.cli.bundles import OverwriteOption, report_bundle
from gsr_core.cli.slices import BundleArgument
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    import numpy as np

    from gsr_core.data.bundle import Bundle

__all__ = ["search", "words", "zeroshot"]

SplitOption = Annotated[
    list[str] | None,
    typer.Option("--split", help="Look at this split only; repeatable.", show_default=False),
]


def search(
    bundle: BundleArgument,
    phrase: Annotated[str, typer.Argument(help="A few words, in quotes.", show_default=False)],
    splits: SplitOption = None,
    top: Annotated[int, typer.Option(min=1, help="Samples to list.")] = 50,
    above: Annotated[
        float | None,
        typer.Option(
            metavar="T", help="Only samples of this similarity or more.", show_default=False
        ),
    ] = None,
    save_slice: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Keep them as a slice: all of --above, else the first --top.",
            show_default=False,
        ),
    ] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the samples of a bundle by how near they are to a phrase."""
    from gsr_core.curation.slices import name_slice
    from gsr_core.data.bundle import open_bundle
    from gsr_core.phrases.search import check_least
    from gsr_core.phrases.search import search as rank

    if above is not None:
        check_least(above)
    place = terminal.open_workspace(workspace)
    opened = open_bundle(place, bundle)
    found = rank(place, opened, phrase, rows=_rows(opened, splits))
    passing = found if above is None else found[found["similarity"] >= above]
    shown = passing.head(top)
    saved = None
    if save_slice:
        kept = shown if above is None else passing
        limit = f"the first {len(kept):,}" if above is None else f"similarity {above:g} or more"
        about = f"“{' '.join(phrase.split())}”, {', '.join(splits or ['all splits'])}, {limit}"
        saved = name_slice(place, opened, save_slice, kept["row"].to_numpy(), about)
    if as_json:
        terminal.print_json(
            {
                "bundle": opened.name,
                "phrase": phrase,
                "looked_at": len(found),
                "passing": len(passing),
                "slice": None if saved is None else saved.name,
                "samples": terminal.records(shown),
            }
        )
        return
    columns = ["sample_id", "split", "class", "group", "similarity"]
    table = terminal.table(*(each.replace("_", " ") for each in columns))
    for row in shown[columns].itertuples(index=False):
        table.add_row(*row[:-1], f"{row[-1]:.3f}")
    terminal.console().print(table)
    limit = "" if above is None else f", {len(passing):,} of them at {above:g} or more"
    print(f"{len(found):,} samples looked at{limit}", file=sys.stderr)
    if saved is not None:
        print(f"slice '{saved.name}': {len(saved.rows):,} samples")


def zeroshot(
    bundle: BundleArgument,
    phrases: Annotated[
        list[str],
        typer.Argument(help="Its values, two or more; or one, with --above.", show_default=False),
    ],
    attribute: Annotated[str, typer.Option(help="Its name.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the new bundle.", show_default=False)],
    margin: Annotated[
        float,
        typer.Option(min=0, help="Least lead of the nearest phrase; below it, there is no value."),
    ] = 0.0,
    above: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Of a single phrase: samples of this similarity or more have it.",
            show_default=False,
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle with an attribute whose values are phrases: each sample has the nearest."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.phrases.groups import phrases_as_bundle

    place = terminal.open_workspace(workspace)
    made = phrases_as_bundle(
        place,
        open_bundle(place, bundle),
        attribute,
        phrases,
        name,
        margin=margin,
        above=above,
        overwrite=overwrite,
    )
    report_bundle(made, as_json)


def words(
    bundle: BundleArgument,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice", metavar="NAME", help="Name this slice; repeatable.", show_default=False
        ),
    ] = None,
    clusters: Annotated[
        str,
        typer.Option(
            metavar="CLUSTERING",
            help="Name the clusters of a clustering ('gsr cluster').",
            show_default=False,
        ),
    ] = "",
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file with a phrase a line, in place of the built-in list.",
            show_default=False,
        ),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Phrases of each.")] = 5,
    splits: SplitOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which phrases of a vocabulary fit slices or clusters better than the other samples.

    Without --slice and --clusters, the groups of the bundle are named.
    """
    import numpy as np

    from gsr_core.clusterings.store import open_clustering
    from gsr_core.curation.slices import find_slice
    from gsr_core.data.bundle import open_bundle
    from gsr_core.phrases.vocabulary import name_sets, read_vocabulary, sets_without_words

    place = terminal.open_workspace(workspace)
    opened = open_bundle(place, bundle)
    sets = {name: find_slice(place, opened, name).rows for name in slices or []}
    if clusters:
        clustering = open_clustering(place, clusters)
        clustering.check_data(opened.manifest.digest, opened.name)
        if both := sorted(set(sets) & set(clustering.names.values())):
            terminal.fail(
                f"'{both[0]}' is a slice and a cluster of {clusters}; name them one after the "
                "other, or rename one on the page Samples or Map"
            )
        of = clustering.clusters_of(np.arange(len(opened)))
        sets |= {name: np.flatnonzero(of == key) for key, name in clustering.names.items()}
    if not sets:
        sets = {
            name: np.flatnonzero(opened.membership[:, g])
            for g, name in enumerate(opened.group_names)
        }
    among = _rows(opened, splits)
    table = name_sets(
        place,
        opened,
        sets,
        among=among,
        vocabulary=read_vocabulary(vocabulary),
        most=most,
    )
    without = sets_without_words(opened, sets, among)
    if as_json:
        terminal.print_json(
            {"bundle": opened.name, "names": terminal.records(table), "without": without}
        )
        return
    shown = terminal.table("set", "samples", "phrases, with their lead in standard deviations")
    shown.columns[-1].no_wrap = False
    for name, part in table.groupby("set", sort=False):
        said = ", ".join(
            f"{phrase} {score:+.2f}"
            for phrase, score in zip(part["phrase"], part["score"], strict=True)
        )
        shown.add_row(str(name), f"{part['samples'].iloc[0]:,}", said)
    if not table.empty:
        terminal.console().print(shown)
    for name, why in without.items():
        print(f"'{name}' has no words: {why}", file=sys.stderr)


def _rows(bundle: Bundle, splits: list[str] | None) -> np.ndarray | None:
    """Return the rows of some splits, in the bundle's order; None for all."""
    import numpy as np

    from gsr_core.data.bundle import check_split

    if not splits:
        return None
    for split in splits:
        check_split(bundle, split)
    return np.unique(np.concatenate([bundle.rows_of[split] for split in splits]))
