"""What a report says, as one object: the file, the model card and a notebook show the same.

Every number comes from where the pages have it: scores, intervals and verdicts from `comparing`,
labels spent from `runs.protocol`, weights from the run. Nothing is computed for the report alone.
"""

from __future__ import annotations

import base64
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from gsr_core.comparing.entries import Entry, check_comparable, default_reference, entries, identity
from gsr_core.comparing.report import comparison
from gsr_core.data.bundle import SPLITS, Bundle, Manifest
from gsr_core.data.variation import make_variation
from gsr_core.errors import ComparisonError
from gsr_core.files import sha256
from gsr_core.jobs.command import option
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.notebook import as_table
from gsr_core.runs.cautions import cautions
from gsr_core.runs.job import RunJob, run_commands
from gsr_core.runs.protocol import protocol_of, settings_of
from gsr_core.runs.record import versions
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import Run, list_runs, now
from gsr_core.runs.summary import AVERAGES, run_label, weights_by_group
from gsr_core.shares import spread
from gsr_core.workspace import DEFAULT_WORKSPACE, Workspace

__all__ = ["GroupFacts", "Report", "RunFacts", "SampleFacts", "baseline_of", "make_report"]

_EXTREMES = 8
"""Samples shown of each end of the weights."""

_SIDE = 112
"""Longest side of a thumbnail in pixels; larger ones are made smaller."""

_SMALL = 64
"""Images up to this side stay as they are pixel by pixel; JPEG would blur them."""

_LETTERS = 160

_NAMED = re.compile(r" \(first: .*\)(?=\.$)", re.DOTALL)
"""Where the note of an import names single inputs, by their paths."""


@dataclass(frozen=True)
class GroupFacts:
    """A group of the data.

    Attributes:
        name: Its name.
        definition: What a sample must satisfy to belong.
        counts: Its samples by split, for each split that is there.
    """

    name: str
    definition: str
    counts: dict[str, int]


@dataclass(frozen=True)
class SampleFacts:
    """A sample with an extreme weight.

    Attributes:
        sample_id: The user's id.
        group: Its group or groups.
        label: Its class.
        prediction: The class that the kept head gives it.
        weight: Relative to an equal share, which is 1.
        image: `data:` address of a small picture, or "".
        text: Its text or the values of its row, cut, or "".
    """

    sample_id: str
    group: str
    label: str
    prediction: str
    weight: float
    image: str
    text: str


@dataclass(frozen=True)
class RunFacts:
    """What stands behind one entry, told by the run that stands for it.

    Attributes:
        run_id: Its name.
        method: Key of its method.
        entry: Label of the entry.
        label: Name for people.
        title: Of its method.
        summary: What the method does.
        created: ISO 8601, UTC.
        status: How it ended.
        device: What computed.
        step: The kept step.
        steps: Steps done.
        seconds: Time spent computing.
        note: What the user should know about the head, or "".
        settings: Setting, value and the method's default, as text.
        variation: What was changed about the data, in words; nothing if empty.
        protocol: Group labels read, and what chose the step, in words.
        cautions: What to beware of in its numbers.
        versions: Of what computed it.
        head_sha256: Digest of the kept head's file.
        values: What the values of samples are, or "" if the method gives none.
        values_split: The split whose rows have them.
        weights: One row a group: group, samples, data, weight (both shares of all, fractions) and
            effective, the effective sample size; empty without values.
        history: group, step, value: the groups' shares of the weight; empty without values.
        heaviest: Samples of most weight, heaviest first; empty where samples are left out.
        lightest: Samples of least weight, lightest first.
        commands: Lines that repeat the entry's runs, or why no line does.
    """

    run_id: str
    method: str
    entry: str
    label: str
    title: str
    summary: str
    created: str
    status: str
    device: str
    step: int
    steps: int
    seconds: float
    note: str
    settings: list[tuple[str, str, str]]
    variation: list[str]
    protocol: str
    cautions: list[str]
    versions: dict[str, str]
    head_sha256: str
    values: str
    values_split: str
    weights: list[dict[str, Any]]
    history: pd.DataFrame = field(repr=False, compare=False)
    heaviest: list[SampleFacts] = field(repr=False)
    lightest: list[SampleFacts] = field(repr=False)
    commands: str


@dataclass(frozen=True)
class Report:
    """A run, or a comparison of several, for people who do not have the workspace.

    Attributes:
        manifest: The data.
        groups: Its groups.
        result: All scores, from `comparing.report.comparison`.
        runs: One of each entry of `result`, in the same order: what the others are held against
            comes first, as in "before and after".
        samples: Whether single samples are shown.
        made: ISO 8601, UTC.
        versions: Of what made the report.
        command: The line that makes it again.

    >>> from pathlib import Path
    >>> before, after = gsr.run(place, "birds", "erm"), gsr.run(place, "birds", "gsr", steps=4)
    >>> report = gsr.make_report([after], against=before)
    >>> report.after["label"], report.before["worst_group"]
    ('GSR · steps 4', 'cat, red')
    >>> gsr.write_report(report, Path("birds.html"))
    """

    manifest: Manifest
    groups: list[GroupFacts]
    result: dict[str, Any]
    runs: list[RunFacts]
    samples: bool
    made: str
    versions: dict[str, str]
    command: str

    @property
    def several(self) -> bool:
        """Whether it is on several settings, of which none is the one that it is about."""
        return len(self.runs) > 2

    @property
    def title(self) -> str:
        """What it is on, in a line."""
        what = f"{len(self.runs)} methods" if self.several else self.after["label"]
        return f"{what} on {self.manifest.title}"

    @property
    def before(self) -> dict[str, Any] | None:
        """The reference's entry of `result`; None if there is nothing to hold against it."""
        return self.result["entries"][0] if len(self.runs) > 1 else None

    @property
    def after(self) -> dict[str, Any]:
        """The first entry of `result` that is not `before`."""
        return self.result["entries"][self.main]

    @property
    def main(self) -> int:
        """Place of `after`."""
        return min(1, len(self.runs) - 1)

    def _repr_html_(self) -> str:
        """Return the scores as a small table, for a notebook."""
        rows = [
            {
                "method": entry["label"],
                "seeds": "all" if entry["every_seed"] else len(entry["seeds"]),
                **{name.replace("_", " "): spread(entry[name]) for name in AVERAGES},
                "worst group": entry["worst_group"],
                "group labels read": f"{entry['label_budget']['rows']:,}",
            }
            for entry in self.result["entries"]
        ]
        title = f"{self.manifest.title}: accuracy on test at the kept step"
        return as_table(title, list(rows[0]), rows)


def make_report(runs: Sequence[Run], *, against: Run | None = None, samples: bool = True) -> Report:
    """Gather what there is to say about runs on one bundle.

    Args:
        runs: Ended with a head. Those that differ in their seed alone are one entry.
        against: What they are held against; None takes ERM, else the first of several runs.
        samples: Whether to show single samples: their ids, pictures, texts and values. Without,
            notes of the import name no inputs either.

    Raises:
        ComparisonError: If a run has no result, or they are not of the same data.
        BundleError: If their bundle is gone or is another one now.
    """
    chosen = list({run.run_id: run for run in [*runs, *([against] if against else [])]}.values())
    check_comparable(chosen)
    compared = entries(chosen)
    reference = default_reference(compared)
    if against is not None:
        # The run itself may be replaced by a newer one of its seed; its entry exists in any case.
        own = identity(against)
        reference = next(entry for entry in compared if identity(entry.runs[0]) == own)
        if len(compared) == 1:
            raise ComparisonError(
                f"'{against.run_id}' has the same settings on the same data as the run that it is "
                "to be held against; name a run of another method or with other settings"
            )
    compared = [reference, *(entry for entry in compared if entry != reference)]
    bundle = chosen[0].unchanged_bundle()
    words = ["gsr", "report", *(run.run_id for run in runs)]
    words += option("--against", against.run_id) if against else []
    words += [] if samples else ["--no-samples"]
    manifest = bundle.manifest
    if not samples:
        notes = [_NAMED.sub("", note) for note in manifest.notes]
        manifest = manifest.model_copy(update={"notes": notes})
    return Report(
        manifest=manifest,
        groups=_groups(bundle),
        result=comparison(compared, reference),
        runs=[_run_facts(entry, bundle, samples) for entry in compared],
        samples=samples,
        made=now(),
        versions=versions(),
        command=shlex.join([*words, "--to", "report.html"]),
    )


def baseline_of(run: Run) -> Run | None:
    """Return the newest finished run of ERM on the same data, or None, also for such a run."""
    digest, mine = run.config.bundle_digest, identity(run)
    for other in list_runs(run.workspace):
        config = other.config
        same = config.is_erm and config.bundle_digest == digest
        # A study's run may be of changed data.
        if same and not config.variation and other.head() is not None:
            return None if identity(other) == mine else other
    return None


def _groups(bundle: Bundle) -> list[GroupFacts]:
    there = [split for split in SPLITS if bundle.manifest.split_sizes.get(split)]
    counts = {split: bundle.membership[bundle.rows_of[split]].sum(axis=0) for split in there}
    return [
        GroupFacts(group.name, group.definition, {s: int(counts[s][place]) for s in there})
        for place, group in enumerate(bundle.manifest.groups)
    ]


def _run_facts(entry: Entry, bundle: Bundle, samples: bool) -> RunFacts:
    """Return what there is to say of the first run of an entry.

    Args:
        entry: The entry.
        bundle: Its data.
        samples: Whether to show single samples.
    """
    run = entry.runs[0]
    config, state, method = run.config, run.state, METHODS[run.config.method]
    defaults = make_method(config.method).settings()
    weighted = run.weights(columns=["weight"]) is not None
    history = run.metrics()
    shares = history[(history["metric"] == "weight_sum") & (history["group"] != "")]
    heaviest, lightest = _extremes(run, bundle) if weighted and samples else ([], [])
    return RunFacts(
        run_id=run.run_id,
        method=config.method,
        entry=entry.label,
        label=run_label(run),
        title=method.title,
        summary=method.summary,
        created=config.created,
        status=str(state.status),
        device=state.device or config.device,
        step=state.best_step,
        steps=state.step,
        seconds=state.seconds,
        note=state.note,
        settings=[
            (name, str(value), str(defaults.get(name, "")))
            for name, value in settings_of(config).items()
        ],
        variation=make_variation(config.variation).phrases,
        protocol=protocol_of(run, bundle).text,
        cautions=cautions(run, bundle),
        versions=config.versions,
        head_sha256=sha256(run.head_file),
        values=str(method.values) if weighted else "",
        values_split=run.values_split,
        weights=_weights(run, bundle, history) if weighted else [],
        history=shares[["group", "step", "value"]] if weighted else shares[:0],
        heaviest=heaviest,
        lightest=lightest,
        commands=_commands(entry),
    )


def _weights(run: Run, bundle: Bundle, history: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what each group weighs at the kept step."""
    rows = run.weighted_rows()
    counts = dict(zip(bundle.group_names, bundle.membership[rows].sum(axis=0), strict=True))
    known = weights_by_group(history, run.state.best_step).reindex(list(counts))
    shares, effective = known["weight_sum"], known["effective_sample_size"]
    return [
        {
            "group": group,
            "samples": int(count),
            "data": float(count / len(rows)),
            "weight": share,
            "effective": size,
        }
        for (group, count), share, size in zip(
            counts.items(), shares.tolist(), effective.tolist(), strict=True
        )
    ]


def _extremes(run: Run, bundle: Bundle) -> tuple[list[SampleFacts], list[SampleFacts]]:
    """Return the samples of most and of least weight at the kept step."""
    table = sample_table(run, run.values_split, bundle)
    if not np.ptp(table["weight"].to_numpy()):
        return [], []  # All count alike.
    order = np.argsort(-table["weight"].to_numpy(), kind="stable")
    # Of few samples, none is shown at both ends.
    number = min(_EXTREMES, len(order) // 2)
    return (
        _samples(bundle, table.iloc[order[:number]]),
        _samples(bundle, table.iloc[order[::-1][:number]]),
    )


def _samples(bundle: Bundle, table: pd.DataFrame) -> list[SampleFacts]:
    rows, classes = table["row"].to_numpy(), bundle.manifest.classes
    words = None if bundle.has_images else bundle.in_words(rows, letters=_LETTERS)
    return [
        SampleFacts(
            sample_id=str(sample["sample_id"]),
            group=str(sample["group"]),
            label=classes[sample["y"]],
            prediction=classes[sample["prediction"]],
            weight=float(sample["weight"]),
            image=_picture(bundle.thumbnail(int(sample["row"]))),
            text="" if words is None else words[place],
        )
        for place, sample in enumerate(table.to_dict("records"))
    ]


def _picture(encoded: bytes | None) -> str:
    """Return an image as a `data:` address of a few kilobytes, or "" for none."""
    if encoded is None:
        return ""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    kind = "PNG" if max(image.size) <= _SMALL else "JPEG"
    image.thumbnail((_SIDE, _SIDE))
    written = io.BytesIO()
    image.save(written, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(written.getvalue()).decode()}"


def _commands(entry: Entry) -> str:
    """Return the lines that repeat an entry's runs in the usual workspace."""
    config = entry.config
    if config.variation.keys() - {"seen_groups", "edits"}:
        return f"no line of gsr run: the data were changed by '{config.part_of or 'a study'}'"
    usual = Workspace(Path(DEFAULT_WORKSPACE).resolve())
    return run_commands([RunJob.of(run.config) for run in entry.runs], usual)
