"""The search space of a sweep, and the journal of its trials.

The journal is one of Optuna (Akiba et al., "Optuna: A Next-generation Hyperparameter
Optimization Framework", KDD 2019, https://arxiv.org/abs/1907.10902), which also draws the settings:
at random, or by its tree-structured Parzen estimator (Bergstra et al., "Algorithms for
Hyper-Parameter Optimization", NeurIPS 2011), the default.

A trial has a place, 0, 1, 2, ..., and its sampler is seeded by the sweep's seed and that place
alone. So a trial that was cut off is drawn again as it was, a sweep that was stopped goes on as if
it had not been, and a random sweep is the same however many processes share it. Place 0 has the
method's own defaults, where they are in the search space, so that a sweep is never worse than they
are on val.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gsr_core.errors import SettingError
from gsr_core.methods.base import Range
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.settings import check_known

if TYPE_CHECKING:
    import optuna

__all__ = [
    "Book",
    "Draw",
    "Outcome",
    "Sampler",
    "Setting",
    "Space",
    "Trial",
    "parse_search",
    "read_trials",
    "search_space",
    "search_text",
]

Setting = bool | int | float | str
Space = dict[str, Range | tuple[Setting, ...]]
Sampler = Literal["tpe", "random"]

_STUDY = "sweep"
_DIGITS = 3
"""Significant digits of a number that is tried, so that it can be read and typed."""
_TIE = 1e-6
"""Most that a loss may take off an accuracy: less than one sample in a million."""
_NOT_SEARCHED = ("seed", "selection")
"""Settings that say how trials are compared, not what is tried."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        score: Accuracy on val by the method's selection rule, None if it failed.
        loss: The loss on val that breaks ties, nats.
        step: The kept step.
        seconds: Duration of the trial.
        message: Why it failed, or "".
    """

    score: float | None
    loss: float | None = None
    step: int = 0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        place: Its place in the sweep, counted from zero.
        settings: The settings to try.
        outcome: None while it is computed.
    """

    place: int
    settings: dict[str, Setting]
    outcome: Outcome | None


@dataclass(frozen=True)
class Draw:
    """A draw from the search space.

    Attributes:
        settings: What to try.
        handle: The trial in the journal, for `Book.tell`.
    """

    settings: dict[str, Setting]
    handle: optuna.Trial


def parse_search(text: str) -> Range | tuple[str, ...]:
    """Read a range or choices as a user writes them: `low:high`, `low:high:log` or `a,b,c`.

    Raises:
        SettingError: If it is none of these.
    """
    ends = text.split(":")
    if len(ends) == 1:
        choices = tuple(each.strip() for each in text.split(","))
        if all(choices):
            return choices
    elif len(ends) == 2 or (len(ends) == 3 and ends[2] == "log"):
        try:
            return Range(float(ends[0]), float(ends[1]), log=len(ends) == 3)
        except ValueError:
            pass
    raise SettingError(
        f"'{text}' is no range; write low:high, low:high:log for equal ratios, or choices a,b,c"
    )


def search_text(where: Range | Sequence[Setting]) -> str:
    """Return what a user types for where to look, as `parse_search` reads it."""
    if isinstance(where, Range):
        return f"{where.low}:{where.high}" + ":log" * where.log
    return ",".join(map(str, where))


def search_space(
    method: str,
    fixed: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Range | Sequence[Any]] | None = None,
) -> Space:
    """Return the search space of a sweep of a method.

    Args:
        method: A key of the registry.
        fixed: Settings that every trial has; they are not searched.
        ranges: Where to look, in addition to the ranges that the method declares, or instead.

    Raises:
        SettingError: If a setting or a value is not allowed, or nothing is left to search.
    """
    fixed, ranges = dict(fixed or {}), dict(ranges or {})
    defaults = make_method(method, fixed).settings()
    check_known(method, ranges, defaults)
    for key in ranges:
        if key in fixed:
            raise SettingError(f"'{key}' is fixed and searched at once; do one of the two")
        if key in _NOT_SEARCHED:
            raise SettingError(f"'{key}' decides how trials compare and is not searched; fix it")
    space: Space = {
        key: _dimension(method, fixed, key, where, type(defaults[key]))
        for key, where in {**METHODS[method].search, **ranges}.items()
        if key not in fixed
    }
    if not space:
        why = "all that it declares is fixed" if METHODS[method].search else "it declares none"
        raise SettingError(
            f"method '{method}' has no settings to search: {why}; choose another method, or say "
            "where to look with --search KEY=LOW:HIGH"
        )
    return space


def _dimension(
    method: str, fixed: dict[str, Any], key: str, where: Range | Sequence[Any], kind: type
) -> Range | tuple[Setting, ...]:
    """Return the range or the choices of one setting, as values of its type.

    Raises:
        SettingError: If they are not allowed.
    """

    def allowed(value: Any) -> Setting:
        return make_method(method, {**fixed, key: value}).settings()[key]

    if not isinstance(where, Range):
        choices = tuple(dict.fromkeys(allowed(value) for value in where))
        if not choices:
            raise SettingError(f"{key} has no choices; give at least one")
        return choices
    if kind not in (int, float):
        raise SettingError(f"{key} is no number; give its choices, separated by commas")
    if not -math.inf < where.low < where.high < math.inf:
        raise SettingError(f"{key} is searched from {where.low:g} to {where.high:g}; swap the ends")
    if where.log and where.low <= 0:
        raise SettingError(
            f"{key} is searched in equal ratios from {where.low:g}; begin above 0, or leave out "
            "':log'"
        )
    if kind is int and not (float(where.low).is_integer() and float(where.high).is_integer()):
        raise SettingError(f"{key} is a whole number; so must be {where.low:g} and {where.high:g}")
    low, high = (allowed(int(end) if kind is int else end) for end in (where.low, where.high))
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    return Range(low, high, log=where.log)


class Book:
    """The journal of a sweep's trials. Only the process that holds the sweep's lock writes it."""

    def __init__(
        self,
        file: Path,
        space: Space,
        defaults: Mapping[str, Setting],
        *,
        sampler: Sampler,
        seed: int,
    ) -> None:
        """Open or begin a journal; trials that a dead process left half done are given up.

        Args:
            file: The journal.
            space: Where to look.
            defaults: The method's settings without a search.
            sampler: Draws the settings.
            seed: Decides the draws.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _mend(file)
        self.study = optuna.create_study(
            storage=_storage(file), study_name=_STUDY, direction="maximize", load_if_exists=True
        )
        self.space = space
        self.sampler, self.seed = sampler, seed
        own = {key: defaults[key] for key in space}
        self._first = own if all(_inside(own[key], where) for key, where in space.items()) else None
        self._distributions = {
            key: _distribution(where, defaults[key]) for key, where in space.items()
        }
        self.give_up()

    def trials(self) -> list[Trial]:
        """Return the trials that have ended or are being computed, by place."""
        return _trials(self.study)

    def ask(self, place: int) -> Draw:
        """Draw the settings of a place."""
        import optuna

        seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        self.study.sampler = samplers[self.sampler](seed=seed)
        if place == 0 and self._first is not None:
            # It may be there already, from a process that died at this point.
            states = (optuna.trial.TrialState.WAITING,)
            if not self.study.get_trials(deepcopy=False, states=states):
                self.study.enqueue_trial(self._first)
        trial = self.study.ask(self._distributions)
        settings = {key: _readable(trial.params[key], where) for key, where in self.space.items()}
        if place == 0 and self._first is not None:
            settings = self._first
        trial.set_user_attr("trial", {"place": place, "settings": settings})
        return Draw(settings, trial)

    def tell(self, draw: Draw, outcome: Outcome) -> None:
        """Write down the outcome of a draw."""
        from optuna.trial import TrialState

        draw.handle.set_user_attr("outcome", asdict(outcome))
        if outcome.score is None or outcome.loss is None:
            self.study.tell(draw.handle, state=TrialState.FAIL)
        else:
            # Small groups have few accuracies; among equal ones the sampler follows the loss.
            tie = _TIE * (1 - 1 / (1 + outcome.loss))
            self.study.tell(draw.handle, outcome.score - tie)

    def give_up(self) -> None:
        """Mark the trials that have not ended as failed; their places are free again."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)


def read_trials(file: Path) -> list[Trial]:
    """Return the trials of a journal, by place, without changing it."""
    if not file.exists() or not file.stat().st_size:
        return []
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=_STUDY, storage=_storage(file))
    except KeyError:
        return []  # Another process is just beginning it.
    return _trials(study)


def _trials(study: optuna.Study) -> list[Trial]:
    from optuna.trial import TrialState

    trials: dict[int, Trial] = {}
    for each in study.get_trials(deepcopy=False):
        draw, values = each.user_attrs.get("trial"), each.user_attrs.get("outcome")
        ended = each.state.is_finished() and values is not None
        # Half-done trials of a process that died or was stopped are drawn again.
        if draw is not None and (ended or each.state is TrialState.RUNNING):
            outcome = Outcome(**values) if ended and values is not None else None
            trials[draw["place"]] = Trial(draw["place"], draw["settings"], outcome)
    return [trials[place] for place in sorted(trials)]


class _Unlocked:
    """A lock of a journal that does nothing, because the sweep's own lock is held.

    Optuna's lock is a file that stays behind when its process is killed.
    """

    def acquire(self) -> bool:
        """Do nothing."""
        return True

    def release(self) -> None:
        """Do nothing."""


def _storage(file: Path) -> optuna.storages.JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    lock: Any = _Unlocked()
    return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))


def _mend(file: Path) -> None:
    """Cut off a last line that is incomplete; the next would be appended to it."""
    if file.exists():
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with file.open("r+b") as journal:
                journal.truncate(whole)


def _inside(value: Setting, where: Range | tuple[Setting, ...]) -> bool:
    if isinstance(where, Range):
        return not isinstance(value, str) and where.low <= value <= where.high
    return value in where


def _distribution(
    where: Range | tuple[Setting, ...], default: Setting
) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(where, Range):
        return CategoricalDistribution(where)
    if isinstance(default, int):
        return IntDistribution(int(where.low), int(where.high), log=where.log)
    return FloatDistribution(where.low, where.high, log=where.log)


def _readable(value: Setting, where: Range | tuple[Setting, ...]) -> Setting:
    """Return a drawn number with few digits, so that it can be read and typed."""
    if not isinstance(where, Range) or not isinstance(value, float):
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), where.low), where.high)
