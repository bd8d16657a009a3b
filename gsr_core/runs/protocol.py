"""What a run spent: which group labels it read, how many, and what chose the step it kept.

No rule that looks at `test` exists, so that every score on test is one of a head that was chosen
without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gsr_core.data.bundle import Bundle
from gsr_core.data.variation import in_words, make_variation
from gsr_core.errors import SettingError
from gsr_core.methods.base import Method
from gsr_core.methods.registry import make_method
from gsr_core.runs.record import RunConfig
from gsr_core.runs.store import Run

__all__ = ["Protocol", "protocol_of", "settings_of"]


@dataclass(frozen=True)
class Protocol:
    """What a run was allowed to see beyond the classes.

    Attributes:
        training: Whose group labels trained it, splits' names, or "none".
        chosen_by: What chose the step that was kept.
        labels: Rows whose group labels were read, by split; none where the groups that the method
            saw are the classes.
        groups: The groups that it saw, in words; "" for those by which it is judged.
    """

    training: str
    chosen_by: str
    labels: dict[str, int]
    groups: str = ""

    @property
    def budget(self) -> int:
        """Rows whose group labels were read, all splits together."""
        return sum(self.labels.values())

    @property
    def text(self) -> str:
        """All of it in one line."""
        read = " + ".join(f"{rows:,} of {split}" for split, rows in self.labels.items())
        seen = f"groups seen: {self.groups}; " if self.groups else ""
        return f"{seen}group labels: {read or 'none'}; step chosen by: {self.chosen_by}"


def _method_of(config: RunConfig) -> Method | None:
    """Return a stored run's method with its settings, None if this version refuses them."""
    try:
        return config.make_method()
    except SettingError:
        return None


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return a stored run's settings; those that are newer than the run have their defaults."""
    method = _method_of(config)
    return config.settings if method is None else method.settings()


def protocol_of(run: Run, bundle: Bundle | None = None) -> Protocol:
    """Return what a run was allowed to see.

    Args:
        run: The run.
        bundle: Its bundle, if it is open already.
    """
    config, bundle = run.config, bundle or run.bundle
    # Of settings that an earlier version took, what the method does by default is the best guess.
    method = _method_of(config) or make_method(config.method, {"seed": config.seed})
    weighted = method.fitted_split(bundle.manifest)
    seen = make_variation(config.variation).seen_groups
    labels: dict[str, int] = {}
    # Classes as groups are no labels that somebody had to give.
    for name in method.labels_used if seen != () else ():
        split = weighted if name == "weighted" else name
        labels[split] = len(run.rows_of(split, bundle))
    if config.variation.get("leak") and "target" in labels:
        # They are the same rows.
        labels.pop("val", None)
    within = "val" in method.learns_from
    chosen_by = "only one step, which learned from val" if within else "only one step"
    if method.max_steps > 1:
        chosen_by = method.rule.title
    if config.sweep:
        # Whatever the sweep maximised, it was measured on val.
        labels.setdefault("val", len(run.rows_of("val", bundle)))
        chosen_by += f"; settings by the sweep '{config.sweep}' on val"
    training = [weighted if name == "weighted" else name for name in method.learns_from]
    trained = " and ".join(training if seen != () else []) or "none"
    groups = "" if seen is None else in_words(seen)
    return Protocol(trained, chosen_by, labels, groups)
