"""Computing the missing runs of a study."""

from __future__ import annotations

from collections.abc import Iterable

from gsr_core.errors import RunStateError
from gsr_core.experiments.study import Cell, Kind, Study, StudyRecord, cell_key, matched_runs
from gsr_core.names import method_label
from gsr_core.progress import Report, ShouldStop, Status, never, silent
from gsr_core.runs.store import Run, create_run, list_runs

__all__ = ["cell_label", "run_study"]


def run_study(
    study: Study,
    *,
    progress: Report | None = None,
    should_stop: ShouldStop | None = None,
) -> list[Run]:
    """Compute the missing runs of a study.

    A run that fails does not stop the others.

    Args:
        study: The study; its bundles must exist.
        progress: Called with the fraction done and what is being done.
        should_stop: Called now and then; runs that have finished by then are kept.

    Returns:
        The runs that failed.

    Raises:
        RunStateError: If it was stopped, or another process has it.
        BundleError: If the bundle has changed.

    Example:
        >>> study = gsr.make_study(place, "leak", "birds", ["llr"], seeds=1, device="cpu")
        >>> reports = []
        >>> gsr.run_study(study, progress=lambda fraction, text: reports.append(text))
        []
        >>> reports
        ['Run 1 of 2: LLR, sets of their own, seed 0',
         'Run 2 of 2: LLR, one set for target and val, seed 0']
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
        record = _record_runs(study, record, done.values())
        for place, cell in enumerate(cells):
            if cell_key(cell) in done:
                continue
            title = f"Run {place + 1} of {len(cells)}: {cell_label(record.kind, cell)}"
            report(place / len(cells), title)
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
                record = _record_runs(study, record, [run])
            elif state.status is Status.CANCELLED:
                raise RunStateError(_stopped(study, len(done), len(cells)))
            else:
                failed.append(run)
        return failed


def cell_label(kind: Kind, cell: Cell) -> str:
    """Return a cell of the grid in words."""
    level = {
        "noise": f"{cell.level:.0%} of labels flipped",
        "group_noise": f"{cell.level:.0%} of group labels changed",
        "budget": f"{cell.level:.0%} of target",
        "balance": f"target balanced by {cell.level:.0%}",
        "leak": "one set for target and val" if cell.level else "sets of their own",
        "strength": f"{cell.level:.1%} conflicting",
    }[kind]
    return f"{method_label(cell.method)}, {level}, seed {cell.settings['seed']}"


def _stopped(study: Study, done: int, wanted: int) -> str:
    return f"study '{study.name}' was stopped after {done} of {wanted} runs, which are kept"


def _record_runs(study: Study, record: StudyRecord, runs: Iterable[Run]) -> StudyRecord:
    """Add finished runs to the record on disk and return it."""
    known = list(dict.fromkeys([*record.runs, *(run.run_id for run in runs)]))
    if known != record.runs:
        record = record.model_copy(update={"runs": known})
        study.write(record)
    return record
