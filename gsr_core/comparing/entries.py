"""Entries: the runs of one method with the same settings on the same data, over seeds.

A run that was cancelled, or failed, before its last step is no seed of its setting: a mean over
seeds that were trained for different lengths is of no setting at all. It is an entry of its own,
which says where it stopped.

Only entries on the same data are compared; messages say how data differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gsr_core.data.variation import make_variation
from gsr_core.errors import ComparisonError, GsrError
from gsr_core.methods.registry import METHODS
from gsr_core.names import method_label
from gsr_core.progress import Status
from gsr_core.runs.protocol import settings_of
from gsr_core.runs.record import RunConfig
from gsr_core.runs.store import Run
from gsr_core.runs.summary import changed_settings

__all__ = [
    "Entry",
    "check_comparable",
    "default_reference",
    "entries",
    "identity",
    "same_but_for_seed",
    "what_differs",
]


@dataclass(frozen=True)
class Entry:
    """A method with its settings, run once for each seed.

    Attributes:
        label: Name for people, unique among the entries of one call of `entries`.
        config: Of the first of its runs.
        runs: One run for each seed, by rising seed.
        seeds: Their seeds.
    """

    label: str
    config: RunConfig
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]

    @property
    def stopped(self) -> bool:
        """Whether it is one run that ended early, which nothing is a seed of."""
        return bool(_stopped_at(self.runs[0]))

    @property
    def every_seed(self) -> bool:
        """Whether another seed would change nothing, so that one run stands for all seeds."""
        varied = make_variation(self.config.variation)
        return not (METHODS[self.config.method].seeded or varied.seeded)

    @property
    def run_id(self) -> str:
        """Name of its first run, which stands for the entry in addresses."""
        return self.runs[0].run_id

    def run_of(self, seed: int) -> Run:
        """Return the run of a seed that the entry has."""
        return self.runs[self.seeds.index(seed)]


def entries(runs: Iterable[Run]) -> list[Entry]:
    """Group runs into entries, in the order in which each first appears.

    If several runs have one seed, the newest counts; the others are the same. A run that ended
    early is an entry of its own.
    """
    by_identity: dict[str, dict[int, tuple[RunConfig, Run]]] = {}
    for run in runs:
        config = run.config
        seeds = by_identity.setdefault(identity(run), {})
        if config.seed not in seeds or config.created > seeds[config.seed][0].created:
            seeds[config.seed] = config, run
    ordered = [dict(sorted(seeds.items())) for seeds in by_identity.values()]
    first = [next(iter(seeds.values())) for seeds in ordered]
    return [
        Entry(label, config, tuple(run for _, run in seeds.values()), tuple(seeds))
        for label, (config, _), seeds in zip(_labels(first), first, ordered, strict=True)
    ]


def same_but_for_seed(chosen: Sequence[Run], others: Iterable[Run]) -> list[Run]:
    """Return the chosen runs and those of the others that differ from one in their seed alone.

    A run of a study is joined only by runs of the same study, one that ended early by none.
    """
    known = {(identity(run), run.config.part_of) for run in chosen}
    names = {run.run_id for run in chosen}
    more = [run for run in others if run.run_id not in names]
    return [
        *chosen,
        *(run for run in more if (identity(run), run.config.part_of) in known),
    ]


def identity(run: Run) -> str:
    """Return a key that is the same for runs that differ in nothing but their seed.

    A run that ended early has a key of its own.
    """
    config = run.config
    settings = {key: value for key, value in settings_of(config).items() if key != "seed"}
    # A sweep spends labels of val, so that its winner differs from the same settings set by hand.
    parts = [config.bundle_digest, config.method, settings, config.variation, config.sweep]
    parts += [run.run_id] * bool(_stopped_at(run))
    return json.dumps(parts, sort_keys=True, default=str)


def _stopped_at(run: Run) -> str:
    """Return in words where a run ended early; "" if it has not, or may still go on."""
    state = run.state
    if state.status not in (Status.CANCELLED, Status.FAILED):
        return ""
    return f"{state.status} at step {state.step} of {state.steps}"


def _labels(first: Sequence[tuple[RunConfig, Run]]) -> list[str]:
    labels = []
    for config, run in first:
        variation = make_variation(config.variation).phrases
        changed = [text for text in changed_settings(config) if not text.startswith("seed ")]
        sweep = [f"sweep {config.sweep}"] * bool(config.sweep)
        stopped = [_stopped_at(run)] * bool(_stopped_at(run))
        labels.append(
            " · ".join([method_label(config.method), *changed, *variation, *sweep, *stopped])
        )
    return [
        # The data differ, which `check_comparable` refuses but a list may show; or two runs ended
        # early at the same step.
        label if labels.count(label) == 1 else f"{label} ({config.bundle}, {config.run_id[-6:]})"
        for label, (config, _) in zip(labels, first, strict=True)
    ]


def check_comparable(runs: Sequence[Run]) -> None:
    """Check that runs can be compared: that they have results on the same data.

    Raises:
        ComparisonError: If one has no result, or they ran on different data; the sentence says
            what differs.
    """
    if not runs:
        raise ComparisonError("there is nothing to compare; name at least one run")
    for run in runs:
        if run.head() is None:
            raise ComparisonError(
                f"run '{run.run_id}' has no result to compare: it is {run.state.status}; wait for "
                "it or leave it out"
            )
    first = runs[0]
    for other in runs[1:]:
        if other.config.bundle_digest != first.config.bundle_digest:
            raise ComparisonError(
                f"'{first.run_id}' and '{other.run_id}' are not compared, because "
                f"{what_differs(first, other)}"
            )


def what_differs(a: Run, b: Run) -> str:
    """Return why two runs on different data cannot be compared, as the end of a sentence."""
    one, two = a.config, b.config
    if one.bundle == two.bundle:
        return (
            f"bundle '{one.bundle}' was written anew between them and its samples, features, "
            "splits or groups changed; run one of them again"
        )
    where = f"they ran on bundles '{one.bundle}' and '{two.bundle}'"
    try:
        first, second = a.unchanged_bundle().manifest, b.unchanged_bundle().manifest
    except (GsrError, OSError):
        return f"{where}; compare runs of one bundle"
    for what, left, right in (
        ("classes", first.classes, second.classes),
        ("groups", first.groups, second.groups),
        ("splits", first.split_sizes, second.split_sizes),
        ("splits", first.digests["samples.parquet"], second.digests["samples.parquet"]),
        ("groups", first.digests["groups.parquet"], second.digests["groups.parquet"]),
    ):
        if left != right:
            return f"{where}, whose {what} differ; compare runs of one bundle"
    return f"{where}, whose features or heads differ; compare runs of one bundle"


def default_reference(compared: Sequence[Entry]) -> Entry:
    """Return the entry of the unchanged classifier (`erm`) if there is one, else the first."""
    return next((entry for entry in compared if entry.config.is_erm), compared[0])
