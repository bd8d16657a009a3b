"""The refit against fits from scratch and finite differences, and what is kept of it."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from gsr_core.clusterings.compute import compute_clustering
from gsr_core.clusterings.request import request_clustering
from gsr_core.comparing.entries import default_reference, entries
from gsr_core.comparing.mcnemar import paired_interval
from gsr_core.curation.flags import flag_rows
from gsr_core.curation.slices import name_slice
from gsr_core.data.edits import RowEdit, rows_as_text, rows_from_text
from gsr_core.errors import RunStateError, SettingError
from gsr_core.reports.facts import baseline_of
from gsr_core.runs.cautions import cautions
from gsr_core.runs.execute import continue_run, execute
from gsr_core.runs.execute import run as compute
from gsr_core.runs.removal import delete_run
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import create_run, open_run
from gsr_core.what_if.chance import beyond_chance, draw, validity
from gsr_core.what_if.keep import keep_refit
from gsr_core.what_if.refits import open_refits
from gsr_core.what_if.selection import (
    Selection,
    by_position,
    by_sample_id,
    in_cluster,
    in_slice,
    make_edit,
    on_flag_list,
    the_first,
)

EDITS = {
    "drop": {"kind": "drop"},
    "times": {"kind": "times", "times": 3.5},
    "relabel": {"kind": "relabel", "label": "dog"},
}


@pytest.fixture
def refits(done):
    """Unequal weights, none of them zero, which the heads below are fitted under."""
    return open_refits(done("gsr", steps=3, lr=0.02))


def chosen(refits) -> Selection:
    """Six rows of heldout that carry weight, of both classes."""
    return Selection(refits.position[refits.weight > 0][[1, 4, 7, 11, 12, 18]], "six")


def from_scratch(refits, weight, y, l2):
    """Fit all K columns of a head on standardised rows by plain Newton with a dense Hessian."""
    rows = np.asarray(refits.bundle.features[refits.position], dtype=np.float64)
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    design = np.column_stack([(rows - mean) / scale, np.ones(len(rows))])
    shape = design.shape[1], 2

    def value(flat):
        theta = flat.reshape(shape)
        logs = log_softmax(design @ theta, axis=1)
        residual = np.exp(logs) - np.eye(2)[y]
        gradient = design.T @ (weight[:, None] * residual) + 2 * l2 * theta
        loss = -(weight * logs[np.arange(len(y)), y]).sum() + l2 * (theta**2).sum()
        return loss, gradient.ravel()

    theta = np.zeros(shape)
    for _ in range(30):
        logs = np.exp(log_softmax(design @ theta, axis=1))
        curvature = np.einsum("n,nj,njk->njk", weight, logs, np.eye(2) - logs[:, None, :])
        hessian = np.einsum("na,njk,nb->ajbk", design, curvature, design).reshape(theta.size, -1)
        hessian += 2 * l2 * np.eye(theta.size)
        theta = theta - np.linalg.solve(hessian, value(theta.ravel())[1]).reshape(shape)
    assert np.linalg.norm(value(theta.ravel())[1]) < 1e-13
    head = theta[:-1].T / scale
    return head, theta[-1] - head @ mean


@pytest.mark.parametrize("name", EDITS)
def test_a_refit_is_the_fit_from_scratch_of_the_edited_rows(refits, name):
    edit = make_edit(refits, chosen(refits), **EDITS[name])
    outcome = refits.refit(edit)
    rows = np.isin(refits.position, chosen(refits).rows)
    weight, y = refits.weight.copy(), refits.labels.copy()
    if name == "relabel":
        y[rows] = 1
    else:
        weight[rows] *= EDITS[name].get("times", 0.0)
    head, bias = from_scratch(refits, weight / weight.sum(), y, refits.run.config.settings["l2"])
    np.testing.assert_allclose(outcome.head.weight.numpy(), head, rtol=0, atol=1e-8)
    np.testing.assert_allclose(outcome.head.bias.numpy(), bias, rtol=0, atol=1e-8)
    # And so are the numbers of the groups.
    table, test = refits.changes(outcome, "test"), refits.bundle.rows_of["test"]
    y, members = refits.bundle.y[test], refits.bundle.membership[test]
    logs = log_softmax(np.asarray(refits.bundle.features[test]) @ head.T + bias, axis=1)
    losses = -logs[np.arange(len(y)), y]
    np.testing.assert_allclose(
        table["loss_after"], [losses[g].mean() for g in members.T], atol=1e-7
    )
    right = logs.argmax(axis=1) == y
    np.testing.assert_allclose(table["after"], [right[g].mean() for g in members.T])
    np.testing.assert_array_equal(
        table["fixed"] - table["broken"], np.rint(table["change"] * table["samples"])
    )
    assert outcome.moved == pytest.approx(refits.weight[rows].sum())


def test_no_edit_gives_the_head_of_the_run(refits):
    stored, _ = refits.run.head()
    weights = refits.run.weights()
    np.testing.assert_allclose(refits.weight, weights["weight"] / weights["weight"].sum())
    for split in ("test", "val"):
        table = sample_table(refits.run, split)
        np.testing.assert_allclose(refits.before[split].losses, table["loss"], atol=1e-5)
    again = refits.refit(make_edit(refits, chosen(refits), "times", times=1 + 1e-12))
    np.testing.assert_allclose(again.head.weight.numpy(), stored, atol=1e-6)


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_prediction_is_the_derivative_by_a_weight_and_errs_by_the_square(refits, split):
    rows, actual, predicted = chosen(refits), {}, {}
    for size in (1e-3, -1e-3, 0.1, 0.05):
        edit = make_edit(refits, rows, "times", times=1 + size)
        outcome = refits.refit(edit)
        actual[size] = refits.changes(outcome, split)["loss_change"].to_numpy()
        predicted[size] = outcome.predicted[split]
    central = (actual[1e-3] - actual[-1e-3]) / 2e-3
    slope = (predicted[1e-3] - predicted[-1e-3]) / 2e-3
    np.testing.assert_allclose(slope, central, rtol=1e-4, atol=1e-7)
    # Half the edit leaves a quarter of the error.
    errors = [np.abs(predicted[size] - actual[size]) for size in (0.05, 0.1)]
    assert (errors[1] > 1e-8).all()
    np.testing.assert_allclose(errors[0] / errors[1], 0.25, atol=0.03)


def test_a_prediction_sums_the_stored_influence_over_the_change_of_weights(done):
    # Of target, on which a run stores it; here target and val are the same rows.
    run = done("gsr", steps=3, lr=0.02)
    leaky = create_run(
        *(run.workspace, "tiny", "gsr", {"steps": 3, "lr": 0.02}),
        device="cpu",
        variation={"leak": True},
    )
    execute(leaky)
    refits = open_refits(leaky)
    edit = make_edit(refits, chosen(refits), "drop")
    after = edit.weights(refits.weight, refits.position)
    expected = (after - refits.weight) @ np.asarray(leaky.influence(), dtype=np.float64)
    np.testing.assert_allclose(refits.refit(edit).predicted["val"], expected, rtol=1e-4, atol=1e-7)


def test_relabelling_less_and_less_weight_agrees_with_the_difference_of_gradients(refits):
    # The rows first lose nearly all weight, so that their class changes little.
    errors, happened = [], []
    for share in (0.02, 0.01):
        weight = refits.weight.copy()
        places = np.flatnonzero(np.isin(refits.position, chosen(refits).rows))
        weight[places] *= share
        weight /= weight.sum()
        light = _under(refits, weight)
        outcome = light.refit(make_edit(light, chosen(refits), "relabel", label="dog"))
        happened.append(light.changes(outcome, "test")["loss_change"].to_numpy())
        errors.append(np.abs(outcome.predicted["test"] - happened[-1]))
    assert (np.abs(happened[1]) > 1e-5).all()
    np.testing.assert_allclose(errors[0] / np.abs(happened[0]), 0, atol=0.1)
    assert (errors[1] < 0.3 * errors[0]).all()


def _under(refits, weight):
    """The same run as if its kept weights had been others."""
    objective = refits._objective(weight, refits.labels)
    fit = refits._solver.minimise(objective, refits._fit.state.u, tolerance=1e-10)
    return replace(refits, weight=weight, _fit=fit)


def test_dropping_is_the_same_as_a_bundle_without_the_rows(refits, write, workspace):
    # But for the standardisation, which stays that of all rows: so without one.
    run = create_run(workspace, "tiny", "llr", {"standardise": False}, device="cpu")
    execute(run)
    plain = open_refits(run)
    gone = chosen(refits).rows
    outcome = plain.refit(make_edit(plain, Selection(gone, "six"), "drop"))
    whole = plain.bundle
    left = np.setdiff1d(np.arange(len(whole)), gone)
    write(
        workspace,
        "less",
        samples=whole.samples.iloc[left].reset_index(drop=True),
        membership=whole.membership[left],
        features=np.asarray(whole.features)[left],
    )
    without = create_run(workspace, "less", "llr", {"standardise": False}, device="cpu")
    execute(without)
    np.testing.assert_allclose(outcome.head.weight.numpy(), without.head()[0], atol=1e-6)


# Chance --------------------------------------------------------------------------------------


def test_random_subsets_rank_as_predicted_and_what_is_extreme_stands_out(workspace):
    run = create_run(workspace, "tiny", "llr", device="cpu")
    execute(run)
    refits = open_refits(run)
    edit = make_edit(
        refits, Selection(refits.position[refits.labels == 0][:6], "cats"), **EDITS["relabel"]
    )
    chance = draw(refits, edit, 40)
    # Only cats are drawn, since dogs would not change.
    assert chance.size == 6
    assert chance.loss["test"].shape == (40, 4)
    # The cats' losses rise in every draw, the dogs' fall on average.
    assert (chance.loss["test"][:, :2] > 0).all()
    assert (chance.loss["test"][:, 2:].mean(axis=0) < 0).all()
    score = validity(chance, "test", refits.group_names)
    for g, row in enumerate(score.itertuples()):
        # Spearman's correlation is Pearson's of ranks.
        ranks = [
            pd.Series(each[:, g]).rank().to_numpy()
            for each in (chance.predicted["test"], chance.loss["test"])
        ]
        assert row.rank == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert row.rank > 0.5
        assert row.low < row.rank < row.high
    # A small edit is ranked rightly, and predicted in its size.
    small = draw(refits, edit.model_copy(update={"kind": "times", "times": 1.01}), 12)
    score = validity(small, "test", refits.group_names)
    assert (score["rank"] > 0.98).all()
    np.testing.assert_allclose(score["slope"], 1, atol=0.02)
    # Beyond all draws p is the least that so many can give; in their middle it is one.
    table = refits.changes(refits.refit(edit), "test")
    extreme = table.assign(loss_change=10.0)
    assert beyond_chance(extreme, chance, "test")["chance_loss"].tolist() == [2 / 41] * 4
    middle = table.assign(loss_change=np.median(chance.loss["test"], axis=0))
    assert beyond_chance(middle, chance, "test")["chance_loss"].tolist() == [1.0] * 4


def test_draws_are_reproducible_and_need_other_rows(refits):
    edit = make_edit(refits, chosen(refits), "drop")
    one, two = (draw(refits, edit, 10, seed=seed) for seed in (3, 3))
    np.testing.assert_array_equal(one.loss["val"], two.loss["val"])
    cats = Selection(refits.position[refits.labels == 0], "all cats")
    with pytest.raises(SettingError, match="all 20 rows that it could"):
        draw(refits, make_edit(refits, cats, **EDITS["relabel"]), 10)
    with pytest.raises(SettingError, match="3 random subsets were asked for"):
        draw(refits, edit, 3)


def test_the_paired_interval_covers_what_it_says():
    rng = np.random.default_rng(0)
    for down, up in ((0.02, 0.1), (0.0, 0.03), (0.2, 0.2)):
        draws = rng.multinomial(80, [down, up, 1 - down - up], size=20_000)
        counts, often = np.unique(draws[:, :2], axis=0, return_counts=True)
        low, high = paired_interval(np.full(len(counts), 80), counts[:, 0], counts[:, 1])
        inside = np.average((low <= up - down) & (up - down <= high), weights=often)
        assert 0.935 < inside <= 1
    assert np.isnan(paired_interval(np.array([0]), np.array([0]), np.array([0]))).all()


# Kept runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EDITS)
def test_a_kept_refit_is_a_run_like_others_and_outlives_its_base(refits, workspace, name):
    edit = make_edit(refits, chosen(refits), **EDITS[name])
    kept = keep_refit(refits, edit)
    assert not any("edit" in each for each in cautions(refits.run))
    delete_run(refits.run)
    assert str(execute(kept).status) == "finished"
    kept = open_run(workspace, kept.run_id)
    outcome = refits.refit(edit)
    np.testing.assert_allclose(kept.head()[0], outcome.head.weight.numpy(), atol=1e-6)
    weights = kept.weights()
    np.testing.assert_allclose(
        weights["weight"], edit.weights(refits.weight, refits.position), atol=1e-9
    )
    if name == "relabel":
        where = weights["row"].isin(edit.positions)
        assert (weights.loc[where, "y"] == 1).all()
        assert weights["flipped"].sum() == (refits.labels[refits.places(edit)] == 0).sum()
    config = kept.config
    assert (config.method, config.seed) == ("gsr", 0)
    assert config.variation["edits"][-1]["base"] == refits.run.run_id
    with pytest.raises(SettingError, match="there is nothing to continue"):
        continue_run(kept, 9)
    assert kept.influence() is not None
    assert any("choose edits by val" in each for each in cautions(kept))


def test_a_kept_refit_of_erm_is_not_the_unchanged_classifier(workspace, write):
    samples = write(workspace, "whole").samples.replace({"split": {"train": "heldout"}})
    # Without train the head of ERM is a fit to the rows that carry weights.
    write(workspace, "bare", samples=samples)
    erm = compute(workspace, "bare", "erm", device="cpu")
    gsr = compute(workspace, "bare", "gsr", steps=3, device="cpu")
    refits = open_refits(erm)
    kept = keep_refit(refits, make_edit(refits, chosen(refits), "drop"))
    execute(kept)
    assert default_reference(entries([kept, gsr, erm])).runs == (erm,)
    assert baseline_of(gsr) == erm


def test_a_kept_refit_can_be_asked_again(refits):
    first = make_edit(refits, chosen(refits), **EDITS["relabel"])
    kept = keep_refit(refits, first)
    execute(kept)
    again = open_refits(kept)
    np.testing.assert_array_equal(again.labels[again.places(first)], 1)
    second = make_edit(again, Selection(refits.position[[20, 21]], "two"), "drop")
    both = keep_refit(again, second)
    execute(both)
    np.testing.assert_allclose(both.head()[0], again.refit(second).head.weight.numpy(), atol=1e-6)
    y = both.weights().set_index("row")["y"]
    assert (y[chosen(refits).rows] == 1).all()
    assert [edit["kind"] for edit in both.config.variation["edits"]] == ["relabel", "drop"]


def test_an_edit_without_the_weights_it_changes_makes_no_run(refits, workspace):
    edit = make_edit(refits, chosen(refits), "drop").model_dump()
    with pytest.raises(SettingError, match="gsr whatif RUN"):
        create_run(workspace, "tiny", "gsr", variation={"edits": [edit]})
    with pytest.raises(SettingError, match="dfr fits no head under sample weights"):
        create_run(
            workspace, "tiny", "dfr", variation={"edits": [edit]}, base_weights=refits.weight
        )


# Choices -------------------------------------------------------------------------------------


def test_rows_are_chosen_by_slice_flag_cluster_order_and_id(refits, workspace, write):
    run, bundle = refits.run, refits.bundle
    rows = refits.position[[2, 3, 30]]
    name_slice(workspace, bundle, "three", rows)
    flag_rows(workspace, bundle, rows[:2], "odd")
    np.testing.assert_array_equal(in_slice(run, "three").rows, rows)
    np.testing.assert_array_equal(on_flag_list(run).rows, rows[:2])
    ids = bundle.samples["sample_id"].astype(str)[rows[:2]].tolist()
    named = by_sample_id(run, ids)
    np.testing.assert_array_equal(named.rows, rows[:2])
    # A report without single samples has these words, and no id.
    assert named.about == f"rows {rows[0]}-{rows[1]}"
    assert by_position(np.arange(0, 10, 2)).about == "rows 0, 2, 4, ..."
    heavy = the_first(run, 5, "heaviest").rows
    assert set(heavy) == set(refits.position[np.argsort(-refits.weight, kind="stable")[:5]])
    goal = sample_table(run, "heldout").set_index("row")["goal"]
    goal = goal[refits.position[refits.weight > 0]]
    assert set(the_first(run, 4, "most harmful").rows) == set(goal.nlargest(4).index)
    assert set(the_first(run, 4, "most helpful").rows) == set(goal.nsmallest(4).index)
    request = request_clustering(workspace, bundle, "kmeans", {"space": "features"})
    clustering = compute_clustering(workspace, request, device="cpu")
    table = clustering.assigned()
    name = clustering.names[1]
    expected = table.loc[table["cluster"] == 1, "row"].to_numpy()
    np.testing.assert_array_equal(in_cluster(run, request.name, name).rows, expected)
    with pytest.raises(SettingError, match="has no cluster 'nonsense'"):
        in_cluster(run, request.name, "nonsense")
    other = write(workspace, "other", seed=1)
    request = request_clustering(workspace, other, "kmeans", {"space": "features"})
    compute_clustering(workspace, request, device="cpu")
    with pytest.raises(SettingError, match="is of other data, of bundle 'other' as it was"):
        in_cluster(run, request.name, name)
    with pytest.raises(SettingError, match="the 99 heaviest rows were asked for"):
        the_first(run, 99, "heaviest")
    with pytest.raises(SettingError, match="has no sample 'nobody'"):
        by_sample_id(run, ["nobody"])


def test_rows_without_weight_are_left_out_and_edits_of_nothing_refused(refits):
    test = refits.bundle.rows_of["test"]
    mixed = np.concatenate([test, chosen(refits).rows])
    edit = make_edit(refits, Selection(mixed, "both"), "drop")
    np.testing.assert_array_equal(edit.positions, np.sort(chosen(refits).rows))
    for selection, how, said in (
        (Selection(test, "test"), {"kind": "drop"}, "none of the 40 rows .* has a weight"),
        (Selection(refits.position, "all"), {"kind": "drop"}, "no other row has a weight"),
        (chosen(refits), {"kind": "times", "times": 1.0}, "the factor of the weights is 1"),
        (chosen(refits), {"kind": "times", "times": math.nan}, "the factor of the weights is nan"),
        (chosen(refits), {"kind": "relabel", "label": "dgo"}, r"did you mean 'dog'\?"),
        (
            Selection(refits.position[refits.labels == 1][:3], "dogs"),
            EDITS["relabel"],
            "so that nothing would change",
        ),
    ):
        with pytest.raises(SettingError, match=said):
            make_edit(refits, selection, **how)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("dfr", "fits no head under sample weights"),
        ("afr", "is not the minimum of the loss"),
    ],
)
def test_runs_without_such_a_fit_are_refused_with_the_reason(done, method, said):
    with pytest.raises(RunStateError, match=said):
        open_refits(done(method))


def test_a_run_that_has_not_ended_is_refused(make):
    with pytest.raises(RunStateError, match="has no head yet"):
        open_refits(make())


def test_rows_survive_being_written_as_text():
    rng = np.random.default_rng(1)
    for size in (1, 2, 50, 500):
        rows = np.unique(rng.integers(0, 600, size))
        np.testing.assert_array_equal(rows_from_text(rows_as_text(rows)), rows)
    edit = RowEdit(base="run", kind="times", rows="3-5,9", times=2)
    assert RowEdit.model_validate_json(edit.model_dump_json()) == edit
    assert edit.words == "4 rows × 2"
    for text, said in (("a", "neither a number"), ("3-x", "neither"), ("7", "row 7 is not")):
        with pytest.raises(SettingError, match=said):
            rows_from_text(text, below=7)
