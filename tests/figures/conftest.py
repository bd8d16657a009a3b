from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest


def make_history(groups: int, steps: int) -> pd.DataFrame:
    """A history as `methods.fit` writes it, with what the figures read."""
    rng = np.random.default_rng(groups * 1000 + steps)
    names = [f"g{g}" for g in range(groups)]
    rows: list[tuple[int, str, str, str, float]] = []
    for step in range(1, steps + 1):
        for split in ("target", "val", "test"):
            rows.append((step, split, "", "worst_group_accuracy", rng.uniform(0.5, 0.9)))
            rows.append((step, split, "", "mean_accuracy", 0.95))
        for name, share in zip(names, rng.dirichlet(np.ones(groups)), strict=True):
            rows.append((step, "heldout", name, "weight_sum", share))
            rows.append((step, "heldout", name, "effective_sample_size", 40 * share))
            rows.append((step, "target", name, "group_weight", share))
        rows.append((step, "heldout", "", "effective_sample_size", 55.0))
    return pd.DataFrame(rows, columns=["step", "split", "group", "metric", "value"])


@pytest.fixture
def history() -> Callable[[int, int], pd.DataFrame]:
    return make_history
