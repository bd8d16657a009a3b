"""Maps of a bundle's samples, with a head or the influence of a run.

Which head is looked at is a choice of its own: a run's, the backbone's, one fitted to the same
rows without a method, or one stopped early, whose logits and gradients are early-training outputs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from gsr_core.compute import pick, threads_for
from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.data.problem import load_problem
from gsr_core.data.variation import Variation, make_variation
from gsr_core.errors import SettingError
from gsr_core.inference.references import EARLY_STEPS, early_heads, fitted_head
from gsr_core.linear.head import Head
from gsr_core.maps.config import InfluenceProfile
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

__all__ = ["REFIT_L2", "WhichHead", "map_head", "map_profile"]


WhichHead = Literal["run", "backbone", "refit", "early"]
"""The run's kept head; the backbone's own; one fitted to the weighted rows at equal weights, until
it converges; one stopped after `EARLY_STEPS` steps on them."""

REFIT_L2 = 1e-3
"""Penalty of the fitted head, on features centred and divided by their spread."""


def map_head(bundle: Bundle, run: Run | None, which: WhichHead = "run") -> Head | None:
    """Return the head that a map looks at the rows with; None if there is no such head.

    Heads that are computed see the weighted rows as the run does, with its label noise; they are
    computed once in a process.

    Args:
        bundle: The data.
        run: Whose head and whose data; None for the bundle's own.
        which: Without a run, `run` is `backbone`.

    Raises:
        SettingError: If there is no such choice.
    """
    if which not in get_args(WhichHead):
        raise SettingError(
            f"head '{which}' is unknown; allowed are {', '.join(get_args(WhichHead))}"
        )
    if which in ("refit", "early"):
        if bundle.trained is not None:
            raise SettingError(
                f"head '{which}' is fitted to the bundle's own features, and this run trained the "
                "network anew; take head 'run', or make a bundle of the run's features"
            )
        noise = 0.0 if run is None else make_variation(run.config.variation).label_noise
        # Without noise the weighted rows are the same for every seed.
        seed = run.config.seed if run is not None and noise else 0
        return _fit_head(bundle.path, bundle.manifest.digest, which, seed, noise)
    arrays = run.head() if run is not None and which == "run" else bundle.head
    return None if arrays is None else Head(*(torch.from_numpy(part) for part in arrays))


def map_profile(run: Run) -> InfluenceProfile | None:
    """Return the influence of a run's weighted rows on each group, or None if it has none."""
    values = run.influence()
    if values is None:
        return None
    return InfluenceProfile(run.weighted_rows(), np.asarray(values))


@lru_cache(maxsize=16)
def _fit_head(path: Path, digest: str, which: WhichHead, seed: int, label_noise: float) -> Head:
    """Return a head that is fitted to the weighted rows.

    Args:
        path: Of the bundle.
        digest: Of its content, so that a head for other content is not reused.
        which: `refit` or `early`.
        seed: Of the noise.
        label_noise: Share of the rows with another class.

    Raises:
        SettingError: If the bundle has other content.
    """
    bundle = open_bundle(Workspace(path.parent.parent), str(path))
    if bundle.manifest.digest != digest:
        raise SettingError(f"bundle '{bundle.name}' was just replaced; open it again")
    variation = Variation(label_noise=label_noise)
    problem, _ = load_problem(bundle, pick("cpu"), seed=seed, variation=variation)
    # One thread: the worker must find the very numbers that the page asked for.
    with threads_for(0):
        if which == "early":
            return early_heads(problem, [EARLY_STEPS])[0]
        return fitted_head(problem, problem.weighted, l2=REFIT_L2)
