"""Differences over drawn seeds and test rows, against draws made one by one and exact answers."""

from dataclasses import astuple

import numpy as np
import pytest

from gsr_core.comparing.bootstrap import bootstrap, bootstrap_entries, judged
from gsr_core.comparing.entries import entries
from gsr_core.comparing.paired import paired
from gsr_core.comparing.scores import scores
from gsr_core.experiments.study import make_study
from gsr_core.experiments.study_runs import run_study
from gsr_core.runs.summary import AVERAGES

WORST = "worst_group_accuracy"


@pytest.fixture(scope="module")
def answers():
    """Two heads over three seeds on 90 rows in three groups, of which two overlap; one is empty."""
    rng = np.random.default_rng(4)
    membership = np.zeros((90, 4), dtype=bool)
    membership[np.arange(80), np.repeat([0, 1], 40)] = True
    membership[30:60, 2] = True
    ease = rng.random(90)
    first = rng.random((3, 90)) < 0.4 + 0.6 * ease
    second = rng.random((3, 90)) < 0.3 + 0.6 * ease
    return first, second, membership


def of_score(name, right, membership, shares):
    """A score of (n,) answers."""
    there = membership.any(axis=0)
    groups = np.array([right[members].mean() for members in membership.T[there]])
    if name == WORST:
        return groups.min()
    return right.mean() if name == "mean_accuracy" else shares[there] @ groups


SHARES = np.array([0.5, 0.3, 0.2, 0.0])


@pytest.mark.parametrize("name", AVERAGES)
def test_the_interval_is_that_of_draws_made_one_by_one(answers, name):
    first, second, membership = answers
    found = bootstrap(first, second, membership, training_shares=SHARES)[name]
    rng = np.random.default_rng(0)
    _, which = np.unique(membership, axis=0, return_inverse=True)
    strata = [np.flatnonzero(which == each) for each in np.unique(which)]
    slow = []
    for _ in range(3000):
        rows = np.concatenate([rng.choice(each, len(each)) for each in strata])
        seeds = rng.integers(3, size=3)
        each = [
            of_score(name, first[s][rows], membership[rows], SHARES)
            - of_score(name, second[s][rows], membership[rows], SHARES)
            for s in seeds
        ]
        slow.append(np.mean(each))
    observed = [
        of_score(name, first[s], membership, SHARES) - of_score(name, second[s], membership, SHARES)
        for s in range(3)
    ]
    assert found.difference == pytest.approx(np.mean(observed))
    low, high = np.percentile(slow, [2.5, 97.5])
    # A percentile of 3,000 draws lies within a tenth of the spread.
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.12 * np.std(slow))


def test_equal_answers_differ_by_nothing(answers):
    first, _, membership = answers
    for found in bootstrap(first, first, membership, training_shares=SHARES).values():
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
        assert (found.seeds_needed, found.rows_needed) == (np.inf, np.inf)


def test_swapping_the_two_turns_the_interval_round(answers):
    first, second, membership = answers
    there, back = (
        bootstrap(*pair, membership)[WORST] for pair in ((first, second), (second, first))
    )
    assert (there.difference, there.low) == pytest.approx((-back.difference, -back.high), abs=0.02)
    assert there.p == pytest.approx(back.p, abs=0.02)


def test_seeds_that_are_there_twice_and_rows_in_another_order_leave_the_difference(answers):
    first, second, membership = answers
    order = np.random.default_rng(1).permutation(90)
    one = bootstrap(first, second, membership)[WORST]
    twice = bootstrap(np.tile(first, (2, 1)), np.tile(second, (2, 1)), membership)[WORST]
    moved = bootstrap(first[:, order], second[:, order], membership[order][:, ::-1])[WORST]
    assert twice.difference == pytest.approx(one.difference)
    assert moved.difference == pytest.approx(one.difference)
    assert (moved.low, moved.high) == pytest.approx((one.low, one.high), abs=0.02)


def test_a_head_that_only_gains_is_never_worse(answers):
    _, second, membership = answers
    better = second.copy()
    better[:, membership[:, 1]] = True
    found = bootstrap(better, second, membership)[WORST]
    assert found.low >= 0


def test_one_seed_draws_rows_alone(answers):
    first, second, membership = answers
    found = bootstrap(first[:1], second[:1], membership)["mean_accuracy"]
    change = first[0].astype(float) - second[0]
    # Drawn within the combinations of groups.
    _, which = np.unique(membership, axis=0, return_inverse=True)
    variance = sum(change[which == each].var() * (which == each).sum() for each in np.unique(which))
    spread = np.sqrt(variance) / 90
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.08)


def test_without_shares_of_training_there_is_no_adjusted_difference(answers):
    found = bootstrap(*answers)
    assert np.isnan(astuple(found["adjusted_accuracy"])).all()
    assert not np.isnan(found[WORST].low)


def test_what_is_needed_tells_the_two_apart_four_times_in_five():
    """As many seeds as are said to be needed give a t test that power, by simulation."""
    rng = np.random.default_rng(0)
    membership = np.ones((40_000, 1), dtype=bool)
    rate = 0.7 + np.array([-0.03, 0.01, 0.05, 0.02, -0.02, 0.03])
    first = np.arange(40_000)[None] < (40_000 * rate[:, None])
    second = np.arange(40_000)[None] < 40_000 * 0.69 * np.ones((6, 1))
    needed = bootstrap(first, second, membership)[WORST].seeds_needed
    drawn = rng.normal(rate.mean() - 0.69, rate.std(ddof=1), size=(20_000, int(needed)))
    t = drawn.mean(axis=1) / drawn.std(axis=1, ddof=1) * np.sqrt(needed)
    assert 0.7 < (np.abs(t) > 1.96).mean() < 0.9


@pytest.fixture(scope="module")
def studied(tmp_path_factory, digits_bundle):
    from gsr_core.workspace import Workspace

    workspace = Workspace(digits_bundle.path.parent.parent)
    study = make_study(
        workspace,
        "noise",
        digits_bundle.name,
        ["erm", "rwg", "llr"],
        levels=[0],
        seeds=3,
        device="cpu",
        name="bootstrapped",
    )
    run_study(study)
    return digits_bundle, entries(run for _, run in study.finished())


def test_a_verdict_asks_both_intervals(studied):
    bundle, compared = studied
    erm, rwg, llr = compared
    table = scores(compared)
    drawn = {each.label: bootstrap_entries(each, erm, bundle) for each in (rwg, llr)}
    for metric in AVERAGES:
        alone = paired(table, erm.label, metric).set_index("entry")
        both = judged(table, erm, drawn, metric).set_index("entry")
        for label in (rwg.label, llr.label):
            row, found = both.loc[label], drawn[label][metric]
            assert row["difference"] == pytest.approx(found.difference)
            assert row["low"] == np.nanmin([alone.loc[label, "low"], found.low])
            assert row["high"] == np.nanmax([alone.loc[label, "high"], found.high])
            up, down = row["low"] > 0, row["high"] < 0
            said = "better" if up else "worse" if down else "not distinguishable"
            assert row["verdict"] == said
    # Every seed gives the same difference, so that seeds alone say nothing.
    assert set(paired(table, erm.label)["verdict"]) == {"same on every seed"}
    assert both.loc[rwg.label, "verdict"] in ("better", "worse", "not distinguishable")
    assert judged(table, erm, drawn).set_index("entry").loc[rwg.label, "verdict"] == "better"


def test_entries_without_a_shared_seed_are_not_drawn(studied):
    bundle, (_, rwg, llr) = studied
    from dataclasses import replace

    alone = replace(rwg, runs=rwg.runs[:1], seeds=(7,))
    assert rwg.every_seed or bootstrap_entries(alone, llr, bundle) == {}
