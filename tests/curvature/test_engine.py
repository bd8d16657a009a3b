import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gsr_core.curvature.engine import Curvature
from gsr_core.curvature.solving import Solve
from gsr_core.errors import SettingError
from gsr_core.linear.influence import influence_along, mean_shares
from gsr_core.linear.iterative import SolveEnding, conjugate_gradients, hessian_product
from gsr_core.linear.objective import Objective, centred_basis
from gsr_core.linear.solver import Solver


def engine(case, size=5, **settings):
    return Curvature(case.module, case.batches(size), l2=case.l2, **settings)


def memberships(case):
    """Three groups that overlap, the last one empty."""
    rows = torch.arange(len(case.labels), device=case.labels.device)
    return torch.stack([rows % 2 == 0, rows % 3 > 0, rows < 0], dim=1)


def test_hessian_products_equal_the_explicit_hessian(make_case, random_columns):
    case = make_case()
    columns = random_columns(case, 3)
    expected = case.hessian() @ columns
    torch.testing.assert_close(engine(case).product(columns), expected, rtol=1e-10, atol=1e-12)
    single = engine(case).product(columns[:, 0])
    torch.testing.assert_close(single, expected[:, 0], rtol=1e-10, atol=1e-12)


def test_gauss_newton_products_equal_the_explicit_jacobians(make_case, random_columns):
    case = make_case()
    columns = random_columns(case, 3)
    jacobian = torch.func.jacrev(case.logits)(case.theta)
    share = case.logits(case.theta).softmax(dim=1)
    curved = torch.diag_embed(share) - share[:, :, None] * share[:, None, :]
    weight = case.weights / case.weights.sum()
    matrix = torch.einsum("i,iap,iab,ibq->pq", weight, jacobian, curved, jacobian)
    expected = matrix @ columns + 2 * case.l2 * columns
    actual = engine(case).product(columns, "gauss_newton")
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    assert (matrix - case.hessian()).abs().max() > 0.01


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_float32_products_are_those_of_float64_to_rounding(make_case, random_columns, matrix):
    case = make_case()
    columns = random_columns(case, 2)
    expected = engine(case).product(columns, matrix)
    case.module.float()
    rough = replace(case, inputs=case.inputs.float())
    actual = engine(rough).product(columns.float(), matrix)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_objective(make_case):
    case = make_case()
    expected = torch.func.grad(case.objective)(case.theta)
    torch.testing.assert_close(engine(case).gradient(), expected, rtol=1e-10, atol=1e-12)


def test_group_gradients_are_those_of_the_mean_losses_and_zero_without_a_row(make_case):
    case = make_case()
    groups = memberships(case)
    jacobian = torch.func.jacrev(case.losses)(case.theta)
    actual = engine(case).group_gradients(case.batches(5), groups)
    for column, members in zip(actual.T[:2], groups.T[:2], strict=True):
        torch.testing.assert_close(column, jacobian[members].mean(dim=0), rtol=1e-10, atol=1e-12)
    assert not actual[:, 2].any()


def test_scores_are_explicit_gradients_of_rows_along_the_solutions(make_case, random_columns):
    case = make_case()
    solutions = random_columns(case, 2)
    jacobian = torch.func.jacrev(case.losses)(case.theta)
    expected = -(jacobian + 2 * case.l2 * case.theta) @ solutions
    actual = engine(case).scores(case.batches(5), solutions)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    assert engine(case).scores(list, solutions).shape == (0, 2)


@pytest.mark.parametrize(("size", "at_once"), [(1, 8), (5, 1), (5, 2), (100, 2)])
def test_results_depend_neither_on_batches_nor_on_directions_at_once(
    make_case, random_columns, size, at_once
):
    case = make_case(small, (4,))
    columns, groups = random_columns(case, 3), memberships(case)
    found = []
    for each in (engine(case), engine(case, size, at_once=at_once)):
        rows = case.batches(size)
        found.append(
            [
                each.product(columns),
                each.product(columns, "gauss_newton"),
                each.gradient(),
                each.group_gradients(rows, groups),
                each.scores(rows, columns),
            ]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))


def test_only_the_scale_of_all_weights_together_does_not_matter(make_case, random_columns):
    case = make_case(small, (4,))
    columns = random_columns(case, 2)
    scaled = replace(case, weights=7 * case.weights)
    torch.testing.assert_close(engine(scaled).product(columns), engine(case).product(columns))
    other = replace(case, weights=case.weights.flip(0))
    assert (engine(other).product(columns) - engine(case).product(columns)).abs().max() > 0.01


def test_a_weight_of_two_is_the_row_twice(make_case, random_columns):
    case = make_case(small, (4,))
    columns = random_columns(case, 2)
    doubled = case.weights.clone()
    doubled[4] *= 2
    twice = [torch.cat([each, each[4:5]]) for each in (case.inputs, case.labels, case.weights)]
    one = engine(replace(case, weights=doubled)).product(columns)
    other = engine(replace(case, inputs=twice[0], labels=twice[1], weights=twice[2]))
    torch.testing.assert_close(one, other.product(columns), rtol=1e-12, atol=1e-13)


def test_the_network_is_left_as_it_was(make_case, random_columns):
    case = make_case()
    case.module.train()
    case.module[1].eval()
    case.module[4].weight.requires_grad_(False)
    before = {name: each.clone() for name, each in case.module.state_dict().items()}
    part = engine(case)
    columns = torch.ones(part.network.size, 2).to(case.theta)
    part.solve(part.product(columns), Solve(max_products=2))
    part.scores(case.batches(5), columns)
    assert part.network.size == len(case.theta) - case.module[4].weight.numel()
    assert [each.training for each in case.module][:3] == [True, False, True]
    assert all(torch.equal(before[name], each) for name, each in case.module.state_dict().items())
    assert all(each.grad is None for each in case.module.parameters())


def test_frozen_parameters_have_no_share_in_the_products(make_case, random_columns):
    case = make_case()
    whole, trained = case.hessian(), []
    for name, each in case.module.named_parameters():
        each.requires_grad_(not name.startswith("0."))
        trained.append(torch.full((each.numel(),), each.requires_grad))
    kept = torch.cat(trained)
    columns = random_columns(case, 2)[kept]
    expected = whole[kept][:, kept] @ columns
    torch.testing.assert_close(engine(case).product(columns), expected, rtol=1e-10, atol=1e-12)


def test_attention_has_its_curvature_too(make_case, random_columns):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, inputs):
            return {"logits": self.head(self.layer(inputs).mean(dim=1)), "other": inputs}

    case = make_case(Attending, (3, 4), n=4)
    columns, theta = random_columns(case, 2), case.theta
    part, step = engine(case), 1e-5
    actual, scores = part.product(columns), part.scores(case.batches(), columns)
    ends, losses = [], []
    for sign in (1, -1):
        moved = theta + sign * step * columns[:, 1]
        nn.utils.vector_to_parameters(moved, case.module.parameters())
        ends.append(part.gradient())
        logits = case.module(case.inputs)["logits"].detach()
        losses.append(cross_entropy(logits, case.labels, reduction="none"))
    measured = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(actual[:, 1], measured, rtol=1e-5, atol=1e-6)
    measured = (losses[1] - losses[0]) / (2 * step) - 2 * case.l2 * theta @ columns[:, 1]
    torch.testing.assert_close(scores[:, 1], measured, rtol=1e-5, atol=1e-6)


class Rows:
    """Batches that are made when they are read, and how many were alive at once."""

    def __init__(self, n, size):
        self.n, self.size, self.alive, self.most = n, size, 0, 0

    def __call__(self):
        for at in range(0, self.n, self.size):
            inputs = torch.full((self.size, 4), float(at % 7), dtype=torch.float64)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(inputs, self._gone)
            rows = (inputs, torch.zeros(self.size, dtype=torch.int64), torch.ones(self.size))
            del inputs
            yield rows
            del rows

    def _gone(self):
        self.alive -= 1


def test_memory_holds_no_more_batches_of_four_times_the_rows(make_case, random_columns, compute):
    case = make_case(small, (4,))
    columns, most = random_columns(case, 2), {}
    case.module.cpu()
    for n in (40, 160):
        rows = Rows(n, 10)
        part = Curvature(case.module, rows, l2=0.1)
        part.product(columns.cpu())
        part.group_gradients(rows, torch.ones(n, 1, dtype=torch.bool))
        part.scores(rows, columns.cpu())
        most[n] = rows.most
        assert rows.alive == 0
    # The reader makes the next one before the engine lets go of the last.
    assert most[40] == most[160] <= 2


@pytest.fixture
def linear_case(make_case):
    """A linear head at the minimum of its objective, and the same as the closed forms have it."""
    case = make_case(lambda: nn.Linear(4, 3), (4,), n=30)
    design = torch.cat([case.inputs, torch.ones_like(case.inputs[:, :1])], dim=1)
    weight = case.weights / case.weights.sum()
    basis = centred_basis(3, design)
    objective = Objective(design, case.labels, weight, case.l2, basis)
    state = Solver().minimise(objective, objective.zero(), tolerance=1e-13).state
    columns = state.u @ basis.T
    nn.utils.vector_to_parameters(flat(columns[:, :, None])[:, 0], case.module.parameters())
    return case, objective, state


def flat(columns):
    """Columns (d + 1, K, r) in the order of a linear layer's parameters, (P, r)."""
    weight, bias = columns[:-1], columns[-1]
    return torch.cat([weight.transpose(0, 1).reshape(-1, columns.shape[2]), bias])


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_on_a_linear_head_all_equals_the_closed_forms(linear_case, matrix):
    case, objective, state = linear_case
    groups, part = memberships(case), engine(case)
    assert part.gradient().norm() < 1e-12
    share = mean_shares(groups, state.u)
    gradients = objective.loss_gradients(state, share)
    solved = Solver().solve(objective, state, gradients, tolerance=1e-12).columns
    expected = influence_along(objective, state, solved)

    right = part.group_gradients(case.batches(7), groups)
    whole = torch.einsum("pcr,kc->pkr", gradients, objective.basis)
    torch.testing.assert_close(right, flat(whole), rtol=1e-9, atol=1e-12)
    solution = part.solve(right, Solve(matrix=matrix, tolerance=1e-11))
    assert solution.ending is SolveEnding.REACHED
    scores = part.scores(case.batches(7), solution.columns)
    torch.testing.assert_close(scores, expected, rtol=1e-7, atol=1e-9)
    # Under the weights, each group's influences average to zero.
    assert (objective.sample_weight @ scores).abs().max() < 1e-9


def test_without_the_curvature_a_linear_head_has_the_hessian_free_scores(linear_case):
    case, objective, state = linear_case
    gradients = objective.loss_gradients(state, mean_shares(memberships(case), state.u))
    part = engine(case)
    right = part.group_gradients(case.batches(7), memberships(case))
    solution = part.solve(right, Solve(method="identity"))
    assert torch.equal(solution.columns, right)
    assert solution.residual is None
    scores = part.scores(case.batches(7), solution.columns)
    torch.testing.assert_close(scores, influence_along(objective, state, gradients))


def test_products_of_conjugate_gradients_are_as_many_as_the_closed_forms(linear_case):
    case, objective, state = linear_case
    groups, part = memberships(case)[:, :2], engine(case)
    gradients = objective.loss_gradients(state, mean_shares(groups, state.u))
    product = hessian_product(objective, state, times=1)
    expected = conjugate_gradients(product, gradients, tolerance=1e-8, max_products=100)
    solution = part.solve(part.group_gradients(case.batches(7), groups), Solve(tolerance=1e-8))
    assert solution.products == expected.products


def refitted(case, weights):
    """Group losses of the head that is refitted under other weights."""
    design = torch.cat([case.inputs, torch.ones_like(case.inputs[:, :1])], dim=1)
    basis = centred_basis(3, design)
    objective = Objective(design, case.labels, weights / weights.sum(), case.l2, basis)
    fit = Solver().minimise(objective, objective.zero(), tolerance=1e-13)
    return fit.state.losses @ mean_shares(memberships(case), fit.state.losses)


def test_scores_are_what_nudging_a_weight_and_refitting_measures(linear_case):
    case, _, _ = linear_case
    case = replace(case, weights=case.weights / case.weights.sum())
    part, step = engine(case), 2e-5
    right = part.group_gradients(case.batches(7), memberships(case))
    scores = part.scores(case.batches(7), part.solve(right, Solve(tolerance=1e-11)).columns)
    for i in (0, 2, 17):  # The weight of row 2 is zero: it has the influence of its first grain.
        ends = []
        for sign in (1, -1):
            weights = case.weights.clone()
            weights[i] += sign * step
            ends.append(refitted(case, weights))
        measured = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(scores[i], measured, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_said_with_its_rows(make_case, random_columns, value):
    case = make_case(small, (4,))
    case.inputs[3] = value
    part, columns = engine(case), random_columns(case, 2)
    reason = r"loss is not finite on 1 of 12 rows"
    for work in (
        lambda: part.product(columns),
        lambda: part.product(columns, "gauss_newton"),
        part.gradient,
        lambda: part.group_gradients(case.batches(), memberships(case)),
        lambda: part.scores(case.batches(), columns),
        lambda: part.solve(columns),
    ):
        with pytest.raises(SettingError, match=reason):
            work()


def test_a_derivative_that_is_not_finite_is_said_where_the_losses_are(make_case, random_columns):
    class Root(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).clamp(min=0).sqrt()

    case = make_case(lambda: Root(4, 3), (4,))
    case.inputs[0] = 0
    nn.init.zeros_(case.module.bias)
    with pytest.raises(SettingError, match="are finite and their derivatives are not"):
        engine(case).product(random_columns(case, 1))


def test_a_network_without_forward_mode_is_refused_in_a_sentence(make_case, random_columns):
    class Own(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(inputs):
            return inputs * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, slope):
            return slope * 2

    class Net(nn.Linear):
        def forward(self, inputs):
            return Own.apply(super().forward(inputs))

    case = make_case(lambda: Net(4, 3), (4,))
    with pytest.raises(SettingError, match="cannot be differentiated twice"):
        engine(case).product(random_columns(case, 1))


def test_what_does_not_fit_is_refused_with_what_is_allowed(make_case):
    case = make_case(small, (4,))
    part, size = engine(case), len(case.theta)
    good = case.theta[:, None]
    for work, reason in [
        (lambda: part.product(case.theta[:-1]), rf"columns are \({size - 1},\).*allowed are"),
        (lambda: part.product(good[:, :0]), r"columns are"),
        (lambda: part.solve(good, start=case.theta), "start is"),
        (
            lambda: part.group_gradients(case.batches(5), memberships(case)[:9]),
            "target batches have 12 rows and membership has 9",
        ),
        (
            lambda: part.group_gradients(case.batches(5), memberships(case).repeat(2, 1)),
            "target batches have 12 rows and membership has 24",
        ),
        (lambda: engine(replace(case, l2=-1.0)), "l2 is -1.0"),
        (lambda: engine(case, at_once=0), "at_once is 0"),
        (lambda: engine(replace(case, weights=0 * case.weights)).gradient(), "12 rows sum to 0"),
        (lambda: Curvature(case.module, list, l2=0.1).product(good), "0 rows sum to 0"),
        (lambda: Curvature(nn.ReLU(), list, l2=0.1), "no parameter of the network is trained"),
        (
            lambda: Curvature(nn.Linear(2, 2).half(), list, l2=0.1),
            "are torch.float16 on cpu; curvature takes",
        ),
        (
            lambda: Curvature(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), list, l2=0),
            "torch.float32 on cpu and torch.float64 on cpu",
        ),
    ]:
        with pytest.raises(SettingError, match=reason):
            work()
