"""Find, explain and repair the subgroup your classifier fails on.

The public names are imported when they are first used, so that `import gsr_core` costs nothing.
It sets how threads wait, unless the user has, for this process and all that it starts: by default
those of OpenMP wait for each other at full load, and take the cores from those that they wait for
as soon as the machine does anything else. Torch reads it when it is imported.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsr_core.captioned import captioned_digits
    from gsr_core.clusterings.compute import compute_clustering
    from gsr_core.clusterings.describe import cluster_table, clusters_as_bundle, describe_clusters
    from gsr_core.clusterings.request import request_clustering
    from gsr_core.clusterings.store import Clustering, list_clusterings, open_clustering
    from gsr_core.comparing.gate import Checks, check
    from gsr_core.comparing.radar import radar
    from gsr_core.compute import pick
    from gsr_core.curation.flags import flag_rows, flagged
    from gsr_core.curation.slices import find_slice, list_slices, name_slice
    from gsr_core.data.bundle import Bundle, list_bundles, open_bundle
    from gsr_core.data.bundle_writing import write_bundle
    from gsr_core.data.problem import Problem, Rows, load_problem
    from gsr_core.errors import GsrError
    from gsr_core.examples import coloured_digits
    from gsr_core.experiments.study import make_study, open_study
    from gsr_core.experiments.study_outcomes import outcomes, summarise_outcomes
    from gsr_core.experiments.study_runs import run_study
    from gsr_core.experiments.sweep import make_sweep, open_sweep
    from gsr_core.experiments.sweep_loop import run_sweep
    from gsr_core.features.backbones import load_backbone
    from gsr_core.features.extract import extract
    from gsr_core.inference.registry import INFERENCES, make_inference
    from gsr_core.ingest.importing import import_data
    from gsr_core.ingest.plan import Plan, make_plan
    from gsr_core.linear.head import Head
    from gsr_core.looking.looker import look
    from gsr_core.looking.measure import measure_overlaps
    from gsr_core.methods.base import Method, Step
    from gsr_core.methods.fit import FitResult, fit
    from gsr_core.methods.registry import METHODS, make_method
    from gsr_core.phrases.embed import embed_phrases
    from gsr_core.phrases.groups import phrases_as_bundle
    from gsr_core.phrases.search import search
    from gsr_core.phrases.vocabulary import name_sets, phrase_similarities
    from gsr_core.reports.facts import Report, make_report
    from gsr_core.reports.writing import write_report
    from gsr_core.runs.execute import continue_run, execute, run
    from gsr_core.runs.merge import merge_run
    from gsr_core.runs.reliance import reliance_table
    from gsr_core.runs.store import Run, create_run, list_runs, open_run
    from gsr_core.runs.summary import summarise
    from gsr_core.scanning.groups import groups_by
    from gsr_core.scanning.measured import measure_inputs
    from gsr_core.scanning.scan import Scan, scan
    from gsr_core.what_if.keep import keep_refit
    from gsr_core.what_if.refits import open_refits
    from gsr_core.what_if.selection import Selection, make_edit
    from gsr_core.workspace import Workspace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_WHERE = {
    # data
    "Workspace": "gsr_core.workspace",
    "Bundle": "gsr_core.data.bundle",
    "list_bundles": "gsr_core.data.bundle",
    "open_bundle": "gsr_core.data.bundle",
    "write_bundle": "gsr_core.data.bundle_writing",
    "Plan": "gsr_core.ingest.plan",
    "make_plan": "gsr_core.ingest.plan",
    "import_data": "gsr_core.ingest.importing",
    "coloured_digits": "gsr_core.examples",
    "captioned_digits": "gsr_core.captioned",
    # features
    "load_backbone": "gsr_core.features.backbones",
    "extract": "gsr_core.features.extract",
    # methods
    "METHODS": "gsr_core.methods.registry",
    "make_method": "gsr_core.methods.registry",
    "Method": "gsr_core.methods.base",
    "Step": "gsr_core.methods.base",
    "Head": "gsr_core.linear.head",
    "Problem": "gsr_core.data.problem",
    "Rows": "gsr_core.data.problem",
    "load_problem": "gsr_core.data.problem",
    "fit": "gsr_core.methods.fit",
    "FitResult": "gsr_core.methods.fit",
    "pick": "gsr_core.compute",
    # groups that nobody labelled
    "INFERENCES": "gsr_core.inference.registry",
    "make_inference": "gsr_core.inference.registry",
    "Clustering": "gsr_core.clusterings.store",
    "request_clustering": "gsr_core.clusterings.request",
    "compute_clustering": "gsr_core.clusterings.compute",
    "open_clustering": "gsr_core.clusterings.store",
    "list_clusterings": "gsr_core.clusterings.store",
    "cluster_table": "gsr_core.clusterings.describe",
    "clusters_as_bundle": "gsr_core.clusterings.describe",
    "describe_clusters": "gsr_core.clusterings.describe",
    "name_slice": "gsr_core.curation.slices",
    "find_slice": "gsr_core.curation.slices",
    "list_slices": "gsr_core.curation.slices",
    "flag_rows": "gsr_core.curation.flags",
    "flagged": "gsr_core.curation.flags",
    # phrases
    "embed_phrases": "gsr_core.phrases.embed",
    "search": "gsr_core.phrases.search",
    "phrases_as_bundle": "gsr_core.phrases.groups",
    "name_sets": "gsr_core.phrases.vocabulary",
    "phrase_similarities": "gsr_core.phrases.vocabulary",
    # runs
    "run": "gsr_core.runs.execute",
    "create_run": "gsr_core.runs.store",
    "execute": "gsr_core.runs.execute",
    "continue_run": "gsr_core.runs.execute",
    "merge_run": "gsr_core.runs.merge",
    "Run": "gsr_core.runs.store",
    "open_run": "gsr_core.runs.store",
    "list_runs": "gsr_core.runs.store",
    "summarise": "gsr_core.runs.summary",
    # what a repair did
    "radar": "gsr_core.comparing.radar",
    "reliance_table": "gsr_core.runs.reliance",
    "look": "gsr_core.looking.looker",
    "measure_overlaps": "gsr_core.looking.measure",
    "Checks": "gsr_core.comparing.gate",
    "check": "gsr_core.comparing.gate",
    # what may mislead
    "Scan": "gsr_core.scanning.scan",
    "scan": "gsr_core.scanning.scan",
    "measure_inputs": "gsr_core.scanning.measured",
    "groups_by": "gsr_core.scanning.groups",
    # reports
    "Report": "gsr_core.reports.facts",
    "make_report": "gsr_core.reports.facts",
    "write_report": "gsr_core.reports.writing",
    # studies and sweeps
    "make_study": "gsr_core.experiments.study",
    "open_study": "gsr_core.experiments.study",
    "run_study": "gsr_core.experiments.study_runs",
    "outcomes": "gsr_core.experiments.study_outcomes",
    "summarise_outcomes": "gsr_core.experiments.study_outcomes",
    "make_sweep": "gsr_core.experiments.sweep",
    "open_sweep": "gsr_core.experiments.sweep",
    "run_sweep": "gsr_core.experiments.sweep_loop",
    # what if
    "Selection": "gsr_core.what_if.selection",
    "make_edit": "gsr_core.what_if.selection",
    "open_refits": "gsr_core.what_if.refits",
    "keep_refit": "gsr_core.what_if.keep",
    # errors
    "GsrError": "gsr_core.errors",
}

__all__ = [
    "INFERENCES",
    "METHODS",
    "Bundle",
    "Checks",
    "Clustering",
    "FitResult",
    "GsrError",
    "Head",
    "Method",
    "Plan",
    "Problem",
    "Report",
    "Rows",
    "Run",
    "Scan",
    "Selection",
    "Step",
    "Workspace",
    "captioned_digits",
    "check",
    "cluster_table",
    "clusters_as_bundle",
    "coloured_digits",
    "compute_clustering",
    "continue_run",
    "create_run",
    "describe_clusters",
    "embed_phrases",
    "execute",
    "extract",
    "find_slice",
    "fit",
    "flag_rows",
    "flagged",
    "groups_by",
    "import_data",
    "keep_refit",
    "list_bundles",
    "list_clusterings",
    "list_runs",
    "list_slices",
    "load_backbone",
    "load_problem",
    "look",
    "make_edit",
    "make_inference",
    "make_method",
    "make_plan",
    "make_report",
    "make_study",
    "make_sweep",
    "measure_inputs",
    "measure_overlaps",
    "merge_run",
    "name_sets",
    "name_slice",
    "open_bundle",
    "open_clustering",
    "open_refits",
    "open_run",
    "open_study",
    "open_sweep",
    "outcomes",
    "phrase_similarities",
    "phrases_as_bundle",
    "pick",
    "radar",
    "reliance_table",
    "request_clustering",
    "run",
    "run_study",
    "run_sweep",
    "scan",
    "search",
    "summarise",
    "summarise_outcomes",
    "write_bundle",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use.

    Raises:
        AttributeError: If there is no such name.
    """
    if name not in _WHERE:
        raise AttributeError(f"module 'gsr_core' has no attribute '{name}'")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
