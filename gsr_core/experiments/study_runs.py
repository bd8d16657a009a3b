"""Computing the runs of a study that are missing."""

from __future__ import annotations

from collections.abc import Iterable

from gsr_core.errors import (
    RunStateError,
)
from gsr_core.experiments.study import Cell, Kind, Study, StudyRecord, cell_key, matched_runs
from gsr_core.progress import Report, ShouldStop, Status, never, silent
from gsr_core.runs.store import Run, create_run, list_runs

__all__ = ["cell_label", "run_study"]


def run_study(
    study: Study,
    *,
    progress: Report | None = None,
    should_stop: ShouldStop | None = None,
) -> list[Run]:
    """Compute what is missing of a study.

    A run that fails does not keep the others from being computed.

    Args:
        study: The study; its bundles must be there.
        progress: Told the fraction done and what is being done.
        should_stop: Asked now and then; what has finished by then is kept.

    Returns:
        The runs that failed.

    Raises:
        RunStateError: If it was stopped, or another process has it.
        BundleError: If the bundle has changed.
    """
    from gsr_core.runs.execute import execute

    report = progress or silent
    stop = should_stop or never
    with study.lock():
        record = study.record
        study.unchanged_bundle()
        cells, failed = record.cells(), []
        own = [
            run
            for run in list_runs(study.workspace)
            if run.config.part_of == record.part_of and run.state.status is Status.FINISHED
        ]
        done = {cell_key(cell): run for cell, run in matched_runs(study.workspace, record, own)}
        record = _noted(study, record, done.values())
        for place, cell in enumerate(cells):
            if cell_key(cell) in done:
                continue
            told = f"Run {place + 1} of {len(cells)}: {cell_label(record.kind, cell)}"
            report(place / len(cells), told)
            if stop():
                raise RunStateError(_stopped(study, len(done), len(cells)))
            run = create_run(
                study.workspace,
                cell.bundle,
                cell.method,
                cell.settings,
                device=record.device,
                variation=cell.variation.changes(),
                part_of=record.part_of,
            )
            state = execute(run, monitor=lambda moment: stop())
            if state.status is Status.FINISHED:
                done[cell_key(cell)] = run
                record = _noted(study, record, [run])
            elif state.status is Status.CANCELLED:
                raise RunStateError(_stopped(study, len(done), len(cells)))
            else:
                failed.append(run)
        return failed


def cell_label(kind: Kind, cell: Cell) -> str:
    """Return one place of the grid in words."""
    level = {
        "noise": f"{cell.level:.0%} of labels flipped",
        "budget": f"{cell.level:.0%} of target",
        "leak": "one set for target and val" if cell.level else "sets of their own",
        "strength": f"{cell.level:.1%} conflicting",
    }[kind]
    return f"{cell.method.upper()}, {level}, seed {cell.settings['seed']}"


def _stopped(study: Study, done: int, wanted: int) -> str:
    return f"study '{study.name}' was stopped after {done} of {wanted} runs, which are kept"


def _noted(study: Study, record: StudyRecord, runs: Iterable[Run]) -> StudyRecord:
    """Add finished runs to the record on disk and return it."""
    known = list(dict.fromkeys([*record.runs, *(run.run_id for run in runs)]))
    if known != record.runs:
        record = record.model_copy(update={"runs": known})
        study.write(record)
    return record
