"""McNemar's exact test by group."""

from math import comb

import numpy as np
import pandas as pd
import pytest

from gsr_core.comparing.mcnemar import holm, judge, mcnemar, rows_needed


def table(*counts: tuple[int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(counts, columns=["samples", "fixed", "broken"])


def test_p_is_that_of_all_outcomes_at_least_as_uneven():
    for one in range(9):
        for two in range(9):
            n, fewest = one + two, min(one, two)
            ways = sum(comb(n, k) for k in range(n + 1) if min(k, n - k) <= fewest)
            both = np.array([one]), np.array([two])
            assert mcnemar(*both)[0] == pytest.approx(ways / 2**n)
            assert mcnemar(*both[::-1])[0] == mcnemar(*both)[0]


def test_holm_lies_between_raw_and_bonferroni_and_keeps_the_order():
    p = np.random.default_rng(0).random(30) ** 3
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(30 * p, 1)).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert np.isnan(holm(np.array([0.1, np.nan]))).tolist() == [False, True]


def test_equal_heads_are_told_apart_no_more_often_than_said():
    """Four groups of changed rows that went either way by chance, 4,000 times."""
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(4000):
        changed = rng.integers(0, 60, 4)
        fixed = rng.binomial(changed, 0.5)
        counts = zip([200] * 4, fixed, changed - fixed, strict=True)
        found += bool(judge(table(*counts))["verdict"].isin(["better", "worse"]).any())
    assert found / 4000 < 0.05


def test_so_many_rows_as_are_needed_tell_a_difference_four_times_in_five():
    rng = np.random.default_rng(2)
    n = int(rows_needed(1000, 60, 100))
    draws = rng.multinomial(n, [0.06, 0.10, 0.84], size=4000)
    told = (mcnemar(draws[:, 0], draws[:, 1]) < 0.05).mean()
    assert told == pytest.approx(0.8, abs=0.03)
    assert np.isinf(rows_needed(100, 7, 7))
    assert rows_needed(1000, 60, 100) == rows_needed(1000, 100, 60)


def test_verdicts():
    judged = judge(table((100, 30, 5), (100, 5, 30), (100, 20, 18), (100, 4, 0), (0, 0, 0)))
    assert judged["verdict"].tolist() == [
        "better",
        "worse",
        "not distinguishable",
        "too few changed",
        "",
    ]
    assert judged["p"].isna().tolist() == [False] * 4 + [True]
    # Eight of one way, and not seven, can be told apart among four groups.
    others = [(100, 0, 0)] * 3
    assert judge(table((100, 8, 0), *others))["verdict"][0] == "better"
    assert judge(table((100, 7, 0), *others))["verdict"][0] == "too few changed"
