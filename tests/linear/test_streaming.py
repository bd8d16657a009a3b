from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gsr_core.data.stored import StoredFeatures
from gsr_core.linear import feature_map, streaming
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.head import Head
from gsr_core.linear.objective import Objective, centred_basis
from gsr_core.linear.solver import Solver
from gsr_core.linear.streaming import StreamedObjective

N, D = 90, 6


@pytest.fixture(params=[(2, False), (3, False), (5, False), (3, True)])
def pair(request, compute, monkeypatch, random_columns):
    """An objective in memory and the same one in blocks of few rows, and a state of each."""
    monkeypatch.setattr(streaming, "_BLOCK", 70)
    monkeypatch.setattr(streaming, "_GRAM_BLOCK", 150)
    monkeypatch.setattr(feature_map, "_CHUNK", 25)
    rng, (n_classes, around) = np.random.default_rng(0), request.param
    file = rng.normal(size=(2 * N, D)).astype(np.float32) * rng.uniform(0.5, 4, D) + 3
    position = rng.permutation(2 * N)[:N]
    stored = StoredFeatures(file.astype(np.float32), position, compute.device)
    labels = torch.from_numpy(rng.integers(n_classes, size=N)).to(compute.device)
    weight = torch.from_numpy(rng.uniform(0.1, 1, N)).to(compute.device, compute.accumulate_dtype)
    to_design = FeatureMap.fit(stored, standardise=True, dtype=compute.accumulate_dtype)
    l2, basis = 0.01, centred_basis(n_classes, weight)
    design = to_design.design(stored.read(), compute.accumulate_dtype)
    dense = Objective(design, labels, weight / weight.sum(), l2, basis)
    streamed = StreamedObjective(
        stored, to_design, labels, dense.sample_weight, l2, basis, compute.accumulate_dtype
    )
    if around:
        weight = random_columns(dense, n_classes, D, seed=5)
        base = Head(weight, random_columns(dense, n_classes, seed=6))
        dense = replace(dense, offset=base.logits(stored.read().to(weight)))
        streamed = replace(streamed, base=base)
    u = random_columns(dense, D + 1, n_classes - 1)
    return dense, streamed, dense.at(u), streamed.at(u)


def test_the_map_is_that_of_rows_in_memory(pair):
    dense, streamed, *_ = pair
    expected = FeatureMap.fit(
        streamed.features.read(), standardise=True, dtype=dense.basis.dtype, row_space=False
    )
    torch.testing.assert_close(streamed.to_design.mean, expected.mean)
    torch.testing.assert_close(streamed.to_design.scale, expected.scale)


def test_values_and_derivatives_are_those_of_rows_in_memory(pair, random_columns):
    dense, streamed, at_dense, at_streamed = pair
    p, c = dense.zero().shape
    for name in ("losses", "value", "logits", "probabilities"):
        torch.testing.assert_close(getattr(at_streamed, name), getattr(at_dense, name))
    columns = random_columns(dense, p, c, 3)
    share = random_columns(dense, N, 4, seed=2)
    step = columns[:, :, 0]
    for law in (
        lambda each, state: each.at_zero().losses,
        lambda each, state: each.along(state, step)(0.5).losses,
        lambda each, state: each.wrong(state),
        lambda each, state: torch.stack(each.gradients(each.at_zero(), state)),
        lambda each, state: each.loss_gradients(state, share),
        lambda each, state: each.gradient_products(state, columns),
        lambda each, state: each.hessian_product(state, columns),
        lambda each, state: each.hessian(state),
        lambda each, state: each.mean_curvature(state),
        lambda each, state: each.weighted(share[:, 0].abs()).gradient(state),
        lambda each, state: each.relabelled(each.labels.flip(0)).gradient(state),
        lambda each, state: each.relabelled(each.labels.flip(0)).at(state.u).value,
    ):
        torch.testing.assert_close(law(streamed, at_streamed), law(dense, at_dense))


def test_rough_products_are_near_and_solves_by_them_exact(pair, random_columns):
    dense, streamed, at_dense, at_streamed = pair
    rough = replace(streamed, rough=True)
    columns = random_columns(dense, *dense.zero().shape, 3)
    expected = dense.hessian_product(at_dense, columns)
    near = rough.hessian_product(at_streamed, columns, rough=True)
    assert not torch.equal(near, streamed.hessian_product(at_streamed, columns))
    torch.testing.assert_close(near, expected, rtol=1e-4, atol=1e-5)
    solved = Solver().solve(rough, at_streamed, columns, tolerance=1e-10)
    assert float(solved.residual.max()) <= 1e-10
    left = columns - dense.hessian_product(at_dense, solved.columns)
    assert float(left.norm() / columns.norm()) < 1e-9


def test_the_fit_is_that_of_rows_in_memory(pair):
    dense, streamed, *_ = pair
    one = Solver().minimise(dense, dense.zero(), tolerance=1e-10)
    other = Solver().minimise(streamed, streamed.zero(), tolerance=1e-10)
    assert other.converged
    torch.testing.assert_close(other.state.u, one.state.u)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that anything returned."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor):
                self.size = max(self.size, each.numel())
        return made


def test_nothing_is_as_large_as_rows_times_features_or_classes(pair, random_columns):
    dense, streamed, at_dense, at_streamed = pair
    columns = random_columns(dense, *dense.zero().shape, 2)

    def everything(each, state):
        each.at(state.u)
        each.along(state, columns[:, :, 0])(1.0)
        each.wrong(state)
        each.gradients(each.at_zero(), state)
        each.hessian_product(state, columns)
        each.mean_curvature(state)

    with Largest() as whole:
        everything(dense, at_dense)
    with Largest() as blocks:
        everything(streamed, at_streamed)
    assert whole.size >= N * D
    # A block, or what there is one number of for each row.
    assert blocks.size <= max(150, N)
