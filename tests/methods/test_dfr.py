from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gsr_core.data.problem import Rows
from gsr_core.errors import SettingError
from gsr_core.methods.dfr import DFR
from gsr_core.methods.erm import ERM
from gsr_core.methods.fit import fit
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.subg import balanced_subset

GROUPS = ["a0", "a1", "b0", "b1"]


@pytest.mark.parametrize("standardise", [True, False])
def test_the_averaged_head_gives_the_mean_of_the_refits_logits(make_problem, standardise):
    problem, test = make_problem()
    method = DFR(steps=3, heads=4, seed=2, standardise=standardise)
    generator = np.random.default_rng(2)
    subsets = [balanced_subset(problem.target, generator) for _ in range(4)]
    features = test.features.double()
    for step, strength in zip(
        method.iterate(problem), np.geomspace(method.strongest, method.weakest, 3), strict=True
    ):
        logits = []
        for drawn in subsets:
            # All target rows, most of them at weight zero, on one scaling.
            inner = InnerProblem(
                problem, problem.target, l2=float(strength), standardise=standardise
            )
            weight = inner.basis.new_tensor(drawn / drawn.sum())
            refit = inner.fit(weight, inner.zero())
            logits.append(inner.head(refit.state.u).logits(features))
        torch.testing.assert_close(
            step.head.logits(features), torch.stack(logits).mean(dim=0), rtol=1e-6, atol=1e-7
        )


def test_it_learns_from_target_alone_and_beats_the_shortcut(make_problem):
    problem, test = make_problem(n=200, n_target=200, minority=0.05)
    result = fit(DFR(heads=4), problem, GROUPS, test=test)
    moved = replace(problem, weighted=replace(problem.weighted, labels=1 - problem.weighted.labels))
    again = fit(DFR(heads=4), moved, GROUPS)
    assert torch.equal(result.step.head.weight, again.step.head.weight)
    history = result.history.query("split == 'test' and metric == 'worst_group_accuracy'")
    kept = history[history["step"] == result.step_index]["value"].iloc[0]
    erm = fit_erm(problem, test)
    assert kept > erm + 0.3


def fit_erm(problem, test) -> float:
    history = fit(ERM(), problem, GROUPS, test=test).history
    rows = history.query("split == 'test' and metric == 'worst_group_accuracy'")
    return float(rows["value"].iloc[0])


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_the_values_are_the_shares_of_the_subsets_that_each_target_row_is_in(make_problem, penalty):
    problem, _ = make_problem(minority=0.1, n_target=50)
    generator = np.random.default_rng(5)
    subsets = [balanced_subset(problem.target, generator) for _ in range(3)]
    expected = np.mean([drawn / drawn.sum() for drawn in subsets], axis=0)
    for step in DFR(steps=2, heads=3, seed=5, penalty=penalty).iterate(problem):
        assert step.sample_weight is not None
        np.testing.assert_allclose(step.sample_weight.cpu(), expected, rtol=1e-12)
        # Each subset is balanced, so their mean is.
        by_group = step.sample_weight.cpu().numpy() @ problem.target.groups.cpu().numpy()
        np.testing.assert_allclose(by_group, 0.25, rtol=1e-12)


def short_of_the_optimum(design, right, count, beta, c) -> float:
    """How far coefficients are from the optimality conditions of l1 + C times the summed loss.

    Args:
        design: (n, p), the bias last.
        right: (n,) bool, the class of each row.
        count: (n,).
        beta: (p,) coefficients of the logit.
        c: C.
    """
    gradient = c * design.T @ (count * (expit(design @ beta) - right))
    at_zero = np.maximum(np.abs(gradient) - 1, 0)
    return float(np.where(beta == 0, at_zero, np.abs(gradient + np.sign(beta))).max())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_each_l1_refit_is_the_optimum_of_the_published_objective(make_problem, n_classes):
    problem, _ = make_problem(n_target=90, n_classes=n_classes)
    # Groups overlap, so that a row that two of them draw counts twice.
    overlapping = torch.from_numpy(np.random.default_rng(0).random((90, 3)) < 0.5)
    target = replace(problem.target, groups=overlapping.to(problem.compute.device))
    problem = replace(problem, target=target)
    method = DFR(penalty="l1", steps=3, heads=1, smallest_c=0.03, largest_c=3.0, seed=1)
    drawn = balanced_subset(problem.target, np.random.default_rng(1))
    assert drawn.max() > 1
    features = problem.target.features.cpu().double()
    scale, mean = torch.std_mean(features, dim=0, correction=0)
    design = np.hstack([(features - mean) / scale, np.ones((90, 1))])
    labels = problem.target.labels.cpu().numpy()
    sizes = []
    for step, c in zip(method.iterate(problem), (0.03, 0.3, 3.0), strict=True):
        assert step.solved
        weight = step.head.weight.cpu() * scale
        bias = step.head.bias.cpu() + step.head.weight.cpu() @ mean
        theta = torch.cat([weight, bias[:, None]], dim=1).numpy()
        # Two classes have one logit between them, more have one each against the rest.
        theta = {1: theta[1] - theta[0]} if n_classes == 2 else dict(enumerate(theta))
        objective = 0.0
        for label, beta in theta.items():
            beta = np.where(np.abs(beta) < 1e-12, 0, beta)
            right = labels == label
            assert short_of_the_optimum(design, right, drawn, beta, c) < 1e-4
            # Planted: the same head is not the optimum of another strength.
            assert short_of_the_optimum(design, right, drawn, beta, 4 * c) > 0.01
            losses = np.logaddexp(0, np.where(right, -1, 1) * (design @ beta))
            objective += (drawn @ losses + np.abs(beta).sum() / c) / drawn.sum()
        assert step.objective == pytest.approx(objective)
        sizes.append(sum((np.abs(beta) > 1e-12).sum() for beta in theta.values()))
    # The penalty makes heads sparse, and less so the weaker it is.
    assert sizes[0] < sizes[2]


def test_l1_is_the_published_recipe(make_problem):
    problem, test = make_problem()
    method = DFR(penalty="l1", steps=3, heads=4, seed=3)
    generator = np.random.default_rng(3)
    subsets = [balanced_subset(problem.target, generator) for _ in range(4)]
    scaler = StandardScaler().fit(problem.target.features.cpu().double())
    x, y = scaler.transform(problem.target.features.cpu().double()), problem.target.labels.cpu()
    seen = scaler.transform(test.features.cpu().double())
    for step, c in zip(method.iterate(problem), (0.01, 0.1, 1.0), strict=True):
        models = [
            LogisticRegression(l1_ratio=1, C=c, solver="liblinear", tol=1e-8, random_state=9).fit(
                x[drawn > 0], y[drawn > 0]
            )
            for drawn in subsets
        ]
        coefficients = np.mean([model.coef_ for model in models], axis=0)
        intercept = np.mean([model.intercept_ for model in models], axis=0)
        expected = (seen @ coefficients.T + intercept)[:, 0]
        logits = step.head.logits(test.features.double()).cpu()
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize(("n_classes", "left"), [(2, 1), (3, 2)])
def test_a_class_that_target_lacks_does_not_stop_l1(make_problem, n_classes, left):
    problem, _ = make_problem(n_classes=n_classes)
    target = problem.target
    keep = target.labels < left
    rows = Rows(
        target.features[keep],
        target.labels[keep],
        target.groups[keep],
        target.position[keep.cpu().numpy()],
    )
    method = DFR(penalty="l1", steps=1, heads=2, smallest_c=1.0)
    head = next(method.iterate(replace(problem, target=rows))).head
    assert head.weight.shape[0] == n_classes
    assert (head.logits(rows.features).argmax(dim=1) < left).all()


def test_a_fit_that_was_cut_short_is_not_solved(make_problem, monkeypatch):
    problem, _ = make_problem()
    method = DFR(penalty="l1", steps=1, heads=2, smallest_c=1.0)
    assert next(method.iterate(problem)).solved
    monkeypatch.setattr("gsr_core.methods.dfr._MAX_PASSES", 2)
    assert not next(method.iterate(problem)).solved


def test_rows_in_no_group_cannot_be_balanced(make_problem):
    problem, _ = make_problem()
    target = replace(problem.target, groups=torch.zeros_like(problem.target.groups))
    with pytest.raises(SettingError, match=r"none of the 60 rows .* is in a known group"):
        next(DFR().iterate(replace(problem, target=target)))


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_a_continued_run_is_one_long_run(make_problem, penalty):
    problem, _ = make_problem()
    whole = list(DFR(steps=4, heads=2, penalty=penalty).iterate(problem))
    rest = list(DFR(steps=4, heads=2, penalty=penalty).iterate(problem, whole[1].checkpoint))
    assert len(rest) == 2
    assert torch.equal(rest[-1].head.weight, whole[-1].head.weight)


def test_the_final_heads_are_those_of_target_and_val_at_the_strength_that_val_chose(make_problem):
    problem, test = make_problem(n_target=120)
    chosen = fit(DFR(heads=4, steps=4), problem, GROUPS).step_index
    target, val = problem.target, problem.val
    both = Rows(
        torch.cat([target.features, val.features]),
        torch.cat([target.labels, val.labels]),
        torch.cat([target.groups, val.groups]),
        np.concatenate([target.position, val.position]),
    )
    expected = list(DFR(heads=4, steps=4).iterate(replace(problem, target=both)))[chosen - 1]
    (final,) = DFR(heads=4, steps=4, final=True).iterate(problem)
    torch.testing.assert_close(
        final.head.logits(test.features), expected.head.logits(test.features)
    )
    share = expected.sample_weight[: len(target)]
    torch.testing.assert_close(final.sample_weight, share / share.sum())
    assert DFR(final=True).labels_used == ("target", "val")
    assert "target and val rows" in final.note
