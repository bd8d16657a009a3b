"""`gsr cluster`: groups that nobody labelled, as a table, a file, or the groups of a new bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import DeviceOption, JsonOption, WorkspaceOption
from gsr_core.inference import WHERE

if TYPE_CHECKING:
    from gsr_core.clusterings.store import Clustering
    from gsr_core.data.bundle import Bundle
    from gsr_core.runs.store import Run
    from gsr_core.workspace import Workspace

__all__ = ["cluster"]


def cluster(
    bundle: Annotated[str, typer.Argument(help="Name or directory.", show_default=False)],
    inference: Annotated[
        str,
        typer.Option("--with", help=f"How to infer groups: {', '.join(WHERE)}."),
    ] = "grasp",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of it; repeatable."),
    ] = None,
    run: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="A run whose head takes the place of the backbone's own, for settings such as "
            "reference=backbone.",
            show_default=False,
        ),
    ] = "",
    split: Annotated[
        str,
        typer.Option(help="Whose samples to describe; those that were clustered by default."),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option(
            help="Write every sample with its cluster to this .csv or .parquet file.",
            show_default=False,
        ),
    ] = None,
    groups: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Make a bundle of this name whose groups are the clusters.",
            show_default=False,
        ),
    ] = "",
    flag: Annotated[
        bool, typer.Option("--flag-outliers", help="Put the outliers on the flag list.")
    ] = False,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Infer groups without group labels, and see how they differ."""
    from gsr_core.clusterings.compute import compute_clustering
    from gsr_core.clusterings.describe import clusters_as_bundle, describe_clusters, flag_outliers
    from gsr_core.clusterings.request import request_clustering
    from gsr_core.curation.tables import check_table_file, write_table
    from gsr_core.data.bundle import check_split, open_bundle
    from gsr_core.data.bundle_writing import bundle_directory
    from gsr_core.runs.store import open_run

    place = terminal.open_workspace(workspace)
    opened = open_bundle(place, bundle)
    # Checked first, so that nothing is computed that cannot be written.
    if to is not None:
        check_table_file(to)
    if groups:
        bundle_directory(place, groups)
    described = split or opened.manifest.weighted_split
    check_split(opened, described)
    own = open_run(place, run) if run else None
    request = request_clustering(
        place, opened, inference, terminal.pairs("--set", settings), run=own
    )
    with terminal.progress(f"clustering {opened.name}") as report:
        clustering = compute_clustering(place, request, device=device, progress=report)
    result = _result(clustering, own or _baseline(place, opened), described)
    if to is not None:
        write_table(describe_clusters(clustering, opened), to)
        result["written"] = str(to)
    if groups:
        result["made_bundle"] = clusters_as_bundle(clustering, groups).name
    if flag:
        result["flagged"] = flag_outliers(clustering, opened)
    if as_json:
        terminal.print_json(result)
    else:
        _report(result)


def _baseline(place: Workspace, bundle: Bundle) -> Run:
    """Return a run of the unchanged classifier (`erm`); compute it if there is none."""
    from gsr_core.runs.execute import run as compute
    from gsr_core.runs.store import list_runs

    earlier = (
        run
        for run in list_runs(place)
        if run.config.bundle_digest == bundle.manifest.digest
        and run.config.is_erm
        and not (run.config.part_of or run.config.seed or run.config.variation)
        and run.head() is not None
    )
    return next(earlier, None) or compute(place, bundle.name, "erm")


def _result(clustering: Clustering, run: Run, split: str) -> dict[str, Any]:
    from gsr_core.clusterings.describe import cluster_table
    from gsr_core.runs.samples import sample_table

    record, bundle = clustering.record, run.bundle
    table = cluster_table(clustering, sample_table(run, split, bundle), bundle)
    return {
        "clustering": clustering.name,
        "clustering_dir": str(clustering.path),
        "bundle": bundle.name,
        "inference": record.request.inference,
        "settings": record.request.settings,
        "choice": record.choice,
        "space": record.space,
        "outliers": record.outliers,
        "agreement": record.agreement,
        "seconds": record.seconds,
        "split": split,
        "run": run.run_id,
        "clusters": terminal.records(table),
    }


def _report(result: dict[str, Any]) -> None:
    choice = result["choice"]
    print(f"{result['clustering']}: {terminal.visible(choice)}")
    print(f"{terminal.percent(result['outliers'])} of the clustered samples are outliers")
    if (agreement := result["agreement"]) is not None:
        print(f"adjusted Rand index with the true groups {agreement['ari']:.2f}")
    table = terminal.table(
        "cluster", result["split"], "most are", "purity", "accuracy", "of the worst group's errors"
    )
    for row in result["clusters"]:
        table.add_row(
            row["name"],
            f"{row['size']:,}",
            row["majority"],
            terminal.percent(row["purity"]),
            terminal.percent(row["accuracy"]),
            terminal.percent(row["worst_errors"]),
        )
    terminal.console().print(table)
    if "written" in result:
        print(f"written to {result['written']}")
    if "made_bundle" in result:
        print(f"bundle '{result['made_bundle']}' has the clusters for groups")
    if "flagged" in result:
        print(f"{result['flagged']:,} outliers are on the flag list")
