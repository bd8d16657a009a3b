import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gsr_core.comparing.changes import changed_samples, shared_run
from gsr_core.comparing.entries import (
    check_comparable,
    default_reference,
    entries,
    same_but_for_seed,
)
from gsr_core.comparing.mcnemar import holm
from gsr_core.comparing.paired import paired, paired_values, rank_correlation
from gsr_core.comparing.report import comparison
from gsr_core.comparing.scores import group_scores, mean_history, scores, spread
from gsr_core.data.groups import Group
from gsr_core.errors import ComparisonError
from gsr_core.metrics import wilson_interval
from gsr_core.progress import Status
from gsr_core.runs.execute import execute
from gsr_core.runs.protocol import protocol_of
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import create_run, list_runs
from gsr_core.runs.summary import AVERAGES, headline
from gsr_core.workspace import Workspace

METRIC = "worst_group_accuracy"


def table(**values: list[float]) -> pd.DataFrame:
    """Scores of some entries, one value a seed; NaN is for a seed that was not run."""
    rows = [
        {"entry": entry, "seed": seed, "every_seed": False, METRIC: value}
        for entry, each in values.items()
        for seed, value in enumerate(each)
        if not math.isnan(value)
    ]
    return pd.DataFrame(rows)


def verdicts(found: pd.DataFrame) -> dict[str, str]:
    return dict(zip(found["entry"], found["verdict"], strict=True))


@pytest.fixture(scope="module")
def studied(tmp_path_factory, write):
    """ERM and GSR over three seeds, another setting of GSR, and DFR at one seed. Not to change."""
    place = Workspace.at(tmp_path_factory.mktemp("studied"))
    write(place)

    def done(method: str, **settings):
        run = create_run(place, "tiny", method, settings, device="cpu")
        execute(run)
        return run

    few = {"erm": {}, "gsr": {"steps": 5}, "dfr": {}}
    runs = {
        (method, seed): done(method, seed=seed, **few[method])
        for method, seeds in {"erm": (0, 1, 2), "gsr": (0, 1, 2), "dfr": (1,)}.items()
        for seed in seeds
    }
    return {**runs, ("gsr other", 0): done("gsr", steps=5, lr=0.2)}


# Entries -------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_alone_are_one_entry(studied):
    runs = list(studied.values())
    found = entries(reversed(runs))
    assert {entry.label: entry.seeds for entry in found} == {
        "ERM": (0, 1, 2),
        "GSR · steps 5": (0, 1, 2),
        "GSR · steps 5 · lr 0.2": (0,),
        "DFR": (1,),
    }
    for entry in found:
        for seed, run in zip(entry.seeds, entry.runs, strict=True):
            assert entry.run_of(seed) is run
            assert run.config.seed == seed


def test_changed_rows_or_a_sweep_make_another_entry(workspace, make):
    plain = make("erm")
    noisy = create_run(workspace, "tiny", "erm", device="cpu", variation={"label_noise": 0.2})
    swept = create_run(workspace, "tiny", "erm", device="cpu", sweep="first")
    assert [entry.label for entry in entries([plain, noisy, swept])] == [
        "ERM",
        "ERM · label noise 0.2",
        "ERM · sweep first",
    ]


def test_of_a_seed_that_was_run_twice_the_newest_counts(make):
    old, new = make("erm", seed=4), make("erm", seed=4)
    config = old.config.model_copy(update={"created": "2000-01-01T00:00:00.000Z"})
    old.write_config(config)
    for order in ([old, new], [new, old]):
        (entry,) = entries(order)
        assert entry.runs == (new,)


def test_a_setting_that_came_later_has_its_default(make):
    run, early = make("gsr"), make("gsr", seed=1)
    settings = {key: value for key, value in early.config.settings.items() if key != "selection"}
    early.write_config(early.config.model_copy(update={"settings": settings}))
    (entry,) = entries([run, early])
    assert entry.seeds == (0, 1)


def test_other_seeds_are_brought_along_but_not_into_a_study(workspace, make):
    chosen = make("erm")
    other = make("erm", seed=1)
    make("llr", seed=1)
    create_run(workspace, "tiny", "erm", {"seed": 2}, device="cpu", part_of="study:noise")
    found = same_but_for_seed([chosen], list_runs(workspace))
    assert [run.run_id for run in found] == [chosen.run_id, other.run_id]


def stop(run, step: int, status: Status = Status.CANCELLED) -> None:
    run.write_state(run.state.model_copy(update={"status": status, "step": step}))


def test_a_run_that_ended_early_is_no_seed_of_its_setting(done):
    runs = [done("gsr", seed=seed) for seed in range(4)]
    stop(runs[1], 3)
    stop(runs[3], 2, Status.FAILED)
    found = entries(runs)
    assert {entry.label: (entry.seeds, entry.stopped) for entry in found} == {
        "GSR · steps 5": ((0, 2), False),
        "GSR · steps 5 · cancelled at step 3 of 5": ((1,), True),
        "GSR · steps 5 · failed at step 2 of 5": ((3,), True),
    }
    assert scores(found).groupby("entry", sort=False).size().tolist() == [2, 1, 1]
    # Nor does it bring others along, or come along with them.
    assert same_but_for_seed(runs[:1], runs) == [runs[0], runs[2]]
    assert same_but_for_seed([runs[1]], runs) == [runs[1]]


def test_two_runs_that_ended_at_the_same_step_stay_apart(make):
    runs = [make("gsr"), make("gsr")]
    for run in runs:
        stop(run, 3)
    assert len({entry.label for entry in entries(runs)}) == 2


# What may be compared ------------------------------------------------------------------------


def refused(runs) -> str:
    with pytest.raises(ComparisonError) as error:
        check_comparable(runs)
    return str(error.value)


def test_runs_without_a_result_are_refused(make, done):
    waiting = make("erm")
    assert f"run '{waiting.run_id}' has no result" in refused([done("llr"), waiting])
    assert "name at least one run" in refused([])


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"classes": ["cat", "cow"]}, "classes"),
        ({"seed": 3}, "splits"),
        ({"groups": 1}, "groups"),
        ({"features": 1}, "features or heads"),
    ],
)
def test_runs_on_other_data_are_refused_with_the_reason(workspace, write, done, changed, what):
    rng = np.random.default_rng(5)
    if "groups" in changed:
        names = ["a", "b", "c", "d"]
        changed = {"groups": [Group(name=name, definition=name) for name in names]}
    elif "features" in changed:
        changed = {"features": rng.normal(size=(200, 5)).astype(np.float32)}
    write(workspace, "other", **changed)
    first, second = done("erm"), create_run(workspace, "other", "erm", device="cpu")
    execute(second)
    said = refused([first, second])
    assert f"bundles 'tiny' and 'other', whose {what} differ; compare runs of one bundle" in said
    check_comparable([second])


def test_runs_before_and_after_a_bundle_was_replaced_are_refused(workspace, write, done):
    before = done("erm")
    write(workspace, seed=1, overwrite=True)
    assert "bundle 'tiny' was written anew between them" in refused([before, done("erm")])


# Scores --------------------------------------------------------------------------------------


def test_scores_are_those_of_the_runs(studied):
    found = entries(studied.values())
    table = scores(found)
    by_run = {run.run_id: run for run in studied.values()}
    assert len(table) == len(studied)
    for row in table.to_dict("records"):
        run = by_run[row["run"]]
        assert {name: row[name] for name in AVERAGES} == pytest.approx(headline(run))
        assert row["seed"] == run.config.seed
    groups = group_scores(found)
    lowest = groups.groupby("run")["accuracy"].min()
    assert lowest.loc[table["run"]].to_numpy() == pytest.approx(table[METRIC].to_numpy())
    named = groups.set_index(["run", "group"])["accuracy"]
    for row in table.to_dict("records"):
        assert named[row["run"], row["worst_group"]] == pytest.approx(row[METRIC])


def test_seeds_give_a_standard_deviation_and_one_seed_wilsons_interval():
    values = [0.7, 0.8, 0.9]
    found = spread(values, 50)
    assert found == pytest.approx({"mean": 0.8, "sd": 0.1, "low": 0.7, "high": 0.9})
    one = spread([0.8], 50)
    assert (one["low"], one["high"]) == pytest.approx(wilson_interval(0.8, 50))
    assert math.isnan(one["sd"])
    assert math.isnan(spread([0.8], None)["low"])


def test_the_mean_of_histories_is_over_the_steps_that_all_have(studied):
    histories = [studied[("gsr", seed)].metrics() for seed in range(3)]
    histories[1] = histories[1][histories[1]["step"] <= 3]
    mean = mean_history(histories)
    assert mean["step"].max() == 3
    row = mean[(mean["metric"] == "weight_sum") & (mean["step"] == 2)].iloc[0]
    values = [
        each[
            (each["metric"] == "weight_sum") & (each["step"] == 2) & (each["group"] == row["group"])
        ]["value"].item()
        for each in histories
    ]
    assert row["value"] == pytest.approx(np.mean(values))
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))


# Pairs ---------------------------------------------------------------------------------------


def test_the_paired_interval_is_that_of_a_t_test():
    rng = np.random.default_rng(0)
    base, better = rng.uniform(0.5, 0.9, 5), rng.uniform(0.5, 0.9, 5)
    (row,) = paired(table(erm=list(base), gsr=list(better)), "erm").to_dict("records")
    test = stats.ttest_rel(better, base)
    interval = test.confidence_interval(0.95)
    assert row["difference"] == pytest.approx((better - base).mean())
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["p"] == pytest.approx(test.pvalue)
    assert row["seeds"] == 5


def test_pairing_cancels_what_a_seed_does_to_both():
    luck = np.array([0.5, 0.6, 0.7, 0.8])
    step = np.array([0.02, 0.03, 0.02, 0.03])
    found = paired(table(erm=list(luck), gsr=list(luck + step)), "erm")
    assert verdicts(found) == {"gsr": "better"}
    # Unpaired, the same numbers overlap widely.
    assert stats.ttest_ind(luck, luck + step).pvalue > 0.5


def test_the_unchanged_classifier_stands_for_every_seed(studied):
    once = [run for (method, seed), run in studied.items() if method == "gsr" or seed == 0]
    erm, gsr, _ = compared = entries(once)
    assert (erm.seeds, erm.every_seed, gsr.every_seed) == ((0,), True, False)
    everything = entries([*studied.values()])
    for reference in (erm.label, gsr.label):
        one, all_ = (
            paired(scores(each), reference).set_index("entry") for each in (compared, everything)
        )
        other = gsr.label if reference == erm.label else erm.label
        assert one.loc[other, "seeds"] == 3
        assert one.loc[other, "difference"] == pytest.approx(all_.loc[other, "difference"])


def test_changed_labels_make_even_the_classifier_depend_on_the_seed(workspace):
    noisy = create_run(workspace, "tiny", "erm", device="cpu", variation={"label_noise": 0.2})
    (entry,) = entries([noisy])
    assert not entry.every_seed


def test_verdicts_say_what_the_seeds_allow():
    nan = math.nan
    scores = table(
        erm=[0.60, 0.62, 0.64, nan],
        better=[0.80, 0.83, 0.85, 0.9],
        worse=[0.40, 0.41, 0.45, 0.1],
        overlapping=[0.70, 0.50, 0.65, 0.9],
        equal=[0.60, 0.62, 0.64, 0.9],
        constant=[0.65, 0.67, 0.69, 0.9],
        once=[0.9, nan, nan, nan],
        elsewhere=[nan, nan, nan, 0.9],
    )
    found = paired(scores, "erm")
    assert verdicts(found) == {
        "better": "better",
        "worse": "worse",
        "overlapping": "not distinguishable",
        "equal": "not distinguishable",
        "constant": "same on every seed",
        "once": "add seeds",
        "elsewhere": "add seeds",
    }
    by_entry = found.set_index("entry")
    assert list(by_entry["seeds"]) == [3, 3, 3, 3, 3, 1, 0]
    assert by_entry.loc["constant", "difference"] == pytest.approx(0.05)
    # Equal differences are no evidence of their size.
    assert by_entry.loc[["equal", "constant", "once"], ["low", "high", "p"]].isna().all(axis=None)


def test_swapping_the_two_turns_the_interval_round():
    scores = table(a=[0.5, 0.6, 0.7], b=[0.8, 0.6, 0.9])
    (there,) = paired(scores, "a").to_dict("records")
    (back,) = paired(scores, "b").to_dict("records")
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))
    assert there["p"] == pytest.approx(back["p"])


def test_holms_correction_keeps_the_order_and_never_helps():
    # Holm's steps by hand: 0.01 * 4, 0.03 * 3, then 0.03 * 2 and 0.04 * 1 raised to what came
    # before.
    np.testing.assert_allclose(
        holm(np.array([0.04, 0.01, math.nan, 0.03, 0.03])),
        [0.09, 0.04, math.nan, 0.09, 0.09],
    )
    np.testing.assert_allclose(holm(np.array([0.7, 0.9])), [1.0, 1.0])


# Sample by sample ----------------------------------------------------------------------------


def test_fixed_and_broken_add_up_to_the_difference_in_accuracy(studied):
    a, b = studied["erm", 0], studied["gsr", 0]
    bundle = a.bundle
    tables = [sample_table(run, "test", bundle) for run in (a, b)]
    found, fixed, broken = changed_samples(bundle, *tables)
    rights = [
        pd.Series(each["correct"].to_numpy()).groupby(each["group"].to_numpy()).sum()
        for each in tables
    ]
    for row in found.to_dict("records"):
        assert row["net"] == rights[1][row["group"]] - rights[0][row["group"]]
    # The groups of this bundle do not overlap.
    assert (found["fixed"].sum(), found["broken"].sum()) == (len(fixed), len(broken))
    assert len(fixed) > 0
    wrong = tables[0].set_index("row")["correct"]
    assert not wrong.loc[fixed].any()
    assert wrong.loc[broken].all()
    with pytest.raises(ComparisonError, match="not scored on the same samples"):
        changed_samples(bundle, tables[0], sample_table(b, "val", bundle))


def test_values_are_paired_by_their_rows(studied):
    a, b = studied["gsr", 0], studied["gsr other", 0]
    found = paired_values(a, b)
    for side, run in (("weight_a", a), ("weight_b", b)):
        weights = run.weights().set_index("row")["weight"]
        np.testing.assert_allclose(found[side], weights.loc[found["row"]] * len(weights))
        assert found[side].mean() == pytest.approx(1)
    rho = rank_correlation(found)
    assert rho == pytest.approx(stats.spearmanr(found["weight_a"], found["weight_b"]).statistic)
    assert rank_correlation(paired_values(a, a)) == pytest.approx(1)


def test_runs_without_values_or_with_values_on_other_rows_are_refused(done):
    a, b, erm = done("gsr"), done("gsr", lr=0.2), done("erm")
    with pytest.raises(ComparisonError, match="ERM has no values of single samples"):
        paired_values(a, erm)
    elsewhere = b.weights().assign(row=lambda found: found["row"] + 10_000)
    elsewhere.to_parquet(b.path / "weights.parquet", index=False)
    with pytest.raises(ComparisonError, match="values of GSR are on heldout"):
        paired_values(a, b)


def test_a_constant_side_has_no_rank_correlation():
    found = pd.DataFrame({"weight_a": [1.0, 1.0, 1.0], "weight_b": [0.5, 1.0, 1.5]})
    assert math.isnan(rank_correlation(found))


# Protocols -----------------------------------------------------------------------------------


def test_the_label_budget_counts_the_rows_whose_groups_were_read(studied, make):
    gsr, erm = protocol_of(studied["gsr", 2]), protocol_of(studied["erm", 0])
    assert (gsr.training, gsr.labels, gsr.budget) == ("target", {"target": 40, "val": 40}, 80)
    assert gsr.chosen_by == "worst group of val"
    assert (erm.training, erm.labels, erm.budget) == ("none", {}, 0)
    assert erm.text == "group labels: none; step chosen by: only one step"
    average = protocol_of(make("gsr", selection="average"))
    assert average.labels == {"target": 40}
    assert average.chosen_by == "mean accuracy of val"


def test_a_sweep_spends_the_labels_of_val_too(workspace):
    run = create_run(workspace, "tiny", "llr", device="cpu", sweep="first")
    protocol = protocol_of(run)
    assert protocol.labels == {"val": 40}
    assert "settings by the sweep 'first' on val" in protocol.text


# All of it -----------------------------------------------------------------------------------


def test_a_comparison_is_one_json_object(studied):
    found = entries(studied.values())
    reference = default_reference(found)
    assert reference.label == "ERM"
    result = comparison(found, reference)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    by_label = {entry["label"]: entry for entry in result["entries"]}
    gsr = next(entry for label, entry in by_label.items() if entry["seeds"] == [0, 1, 2])
    assert gsr["interval"] == "sd over 3 seeds"
    assert by_label["DFR"]["interval"] == "95 % Wilson"
    assert by_label["DFR"][METRIC]["sd"] is None
    assert by_label["DFR"]["adjusted_accuracy"]["low"] is None
    assert [group["n"] for group in gsr["groups"]] == [10, 10, 10, 10]
    assert gsr[METRIC]["mean"] == pytest.approx(np.mean(gsr[METRIC]["by_seed"]))
    pairs = {(row["metric"], row["entry"]): row for row in result["paired"]}
    assert len(pairs) == 3 * (len(found) - 1)
    assert pairs[METRIC, "DFR"]["verdict"] == "add seeds"
    # DFR was run at seed 1 only, so it is held against ERM at that seed.
    dfr = next(each for each in result["changed"] if each["run"].startswith("dfr"))
    assert dfr["reference"] == studied["erm", 1].run_id
    values = {(each["a"], each["b"]): each for each in result["values"]}
    pair = values[studied["gsr", 0].run_id, studied["gsr other", 0].run_id]
    assert pair["samples"] == 40
    assert -1 <= pair["rank_correlation"] <= 1
    assert (
        "no values of single samples"
        in values[studied["erm", 0].run_id, studied["gsr", 0].run_id]["reason"]
    )


def test_runs_are_paired_at_the_lowest_seed_they_share():
    def entry(*seeds: int) -> SimpleNamespace:
        runs = {seed: object() for seed in seeds}
        return SimpleNamespace(seeds=seeds, runs=tuple(runs.values()), run_of=runs.get)

    one, two, three = entry(0, 1, 2), entry(1, 2), entry(5)
    assert shared_run(one, two) == (one.run_of(1), two.run_of(1))
    assert shared_run(one, three) == (one.run_of(0), three.run_of(5))
