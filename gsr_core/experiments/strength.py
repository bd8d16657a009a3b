"""Studies of strength: the bundle of each level is made before the runs are computed.

Only a bundle that says how it was made can be made again with another share of conflicting
samples: the built-in example, and imports by a reader with a setting `conflicting`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gsr_core import examples
from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.errors import BundleError, BundleNotFoundError, RunStateError, SettingError
from gsr_core.experiments.study import Study
from gsr_core.experiments.study_runs import run_study
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import Plan, make_plan, plan_of
from gsr_core.progress import Report, ShouldStop, never, silent
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

__all__ = ["compute_study", "conflicting_share", "failure_message", "names_of_levels"]


_MAKING = 0.6
"""Share of the progress bar for making bundles."""


def conflicting_share(bundle: Bundle) -> float:
    """Return the share of the training rows that conflict with the shortcut.

    Raises:
        SettingError: If the bundle cannot be made with another share.
    """
    example = examples.settings_of(bundle)
    if example is not None:
        return example[1]
    try:
        share = plan_of(bundle).settings.get("conflicting", _default_share(plan_of(bundle)))
    except SettingError:
        share = None
    if share is None:
        raise SettingError(
            f"bundle '{bundle.name}' cannot be made again with another strength of its shortcut; "
            "take the built-in example ('gsr demo') or a data set whose reader has a setting "
            "'conflicting' ('gsr readers')"
        )
    return float(share)


def _default_share(plan: Plan) -> float | None:
    from gsr_core.readers.registry import make_reader

    return getattr(make_reader(plan.reader, plan.settings), "conflicting", None)


def names_of_levels(bundle: Bundle, levels: Sequence[float]) -> list[str]:
    """Return the name of the bundle of each level; for its own level it is the bundle itself.

    Raises:
        SettingError: If the bundle cannot be made with another share.
    """
    own = conflicting_share(bundle)
    return [
        bundle.name if math.isclose(level, own) else f"{bundle.name}-conflicting-{level:g}"
        for level in levels
    ]


def compute_study(
    study: Study,
    *,
    progress: Report | None = None,
    should_stop: ShouldStop | None = None,
) -> list[Run]:
    """Make the missing bundles of a study, then compute its missing runs.

    Args:
        study: The study.
        progress: Called with the fraction done and what is being done.
        should_stop: Called now and then; runs that have finished by then are kept.

    Returns:
        The runs that failed.

    Raises:
        RunStateError: If it was stopped, or another process has it.
        BundleError: If a bundle has changed or has the name of another one.
    """
    report = progress or silent
    stop = should_stop or never
    record = study.record
    missing = []
    if record.kind == "strength":
        base = study.unchanged_bundle()
        for level, name in zip(record.levels, record.bundles, strict=True):
            if not _exists(study.workspace, base, level, name):
                missing.append((level, name))
        for place, (level, name) in enumerate(missing):
            if stop():
                raise RunStateError(
                    f"study '{study.name}' was stopped before bundle '{name}' was made"
                )

            def part(fraction: float, text: str, place: int = place, name: str = name) -> None:
                report(_MAKING * (place + fraction) / len(missing), f"{name}: {text}")

            _make(study.workspace, base, level, name, part, stop)
    begun = _MAKING if missing else 0.0
    return run_study(
        study,
        progress=lambda fraction, text: report(begun + (1 - begun) * fraction, text),
        should_stop=should_stop,
    )


def _exists(workspace: Workspace, base: Bundle, level: float, name: str) -> bool:
    """Return whether the bundle of a level exists.

    Raises:
        BundleError: If another bundle has its name.
    """
    try:
        bundle = open_bundle(workspace, name)
    except BundleNotFoundError:
        return False
    try:
        fits = math.isclose(conflicting_share(bundle), level) and _same_but_for_share(base, bundle)
    except SettingError:
        fits = False
    if not fits:
        raise BundleError(
            f"bundle '{name}' is there already but is not '{base.name}' with {level:g} "
            "conflicting; take it away or study a bundle of another name"
        )
    return True


def _same_but_for_share(base: Bundle, other: Bundle) -> bool:
    example = examples.settings_of(base)
    if example is not None:
        second = examples.settings_of(other)
        return second is not None and second[0] == example[0]
    plans = [plan.model_dump(mode="json") for plan in (plan_of(base), plan_of(other))]
    for plan in plans:
        for key in ("name", "title"):
            plan.pop(key)
        plan["settings"].pop("conflicting", None)
    return plans[0] == plans[1]


def _make(
    workspace: Workspace,
    base: Bundle,
    level: float,
    name: str,
    report: Report,
    stop: ShouldStop,
) -> None:
    example = examples.settings_of(base)
    if example is not None:
        examples.coloured_digits(
            workspace, seed=example[0], name=name, conflicting=level, progress=report
        )
        return
    plan = plan_of(base)
    values = plan.model_dump(mode="json")
    values |= {"name": name, "settings": {**plan.settings, "conflicting": level}}
    import_data(workspace, make_plan(**values), progress=report, should_stop=stop)


def failure_message(failed: Sequence[Run]) -> str:
    """Return a sentence about the runs of a study that failed, and why the first did."""
    first = failed[0]
    return (
        f"{len(failed)} {'run' if len(failed) == 1 else 'runs'} failed; the first, "
        f"{first.run_id}: {first.state.message}"
    )
