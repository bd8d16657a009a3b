"""Methods on features that stay in their file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.data.stored import StoredFeatures
from gsr_core.linear import streaming
from gsr_core.methods.fit import fit
from gsr_core.methods.registry import make_method


@pytest.fixture(params=[2, 4])
def problems(request, make_problem, monkeypatch):
    """A problem with its features in memory, and with all of them where they are stored."""
    monkeypatch.setattr(streaming, "_BLOCK", 300)
    problem, test = make_problem(n_classes=request.param)
    rows = [problem.weighted, problem.target, problem.val, test]
    file = torch.cat([each.features for each in rows]).cpu().numpy()
    # Scattered over the file.
    order = np.random.default_rng(3).permutation(len(file))
    place = np.argsort(order)
    ends = np.cumsum([len(each) for each in rows])
    stored = [
        replace(
            each,
            source=StoredFeatures(file[order], place[end - len(each) : end], each.labels.device),
        )
        for each, end in zip(rows, ends, strict=True)
    ]
    other = replace(problem, weighted=stored[0], target=stored[1], val=stored[2])
    for one, two in zip(rows, stored, strict=True):
        assert torch.equal(one.features, two.features)
    return problem, test, other, stored[-1]


@pytest.mark.parametrize(
    "name",
    [
        *("llr", "rwg", "gsr", "gsr_cg", "gsr_hf", "gsr_lissa", "group_dro", "l2r", "jtt"),
        *("afr", "afr exact", "optweights"),
        *("evals", "rad", "auto_d3m"),
    ],
)
def test_every_kind_of_method_gives_what_it_gives_in_memory(problems, name):
    problem, test, other, other_test = problems
    name, *solver = name.split()
    stepped = name.startswith(("gsr", "afr", "optweights"))
    settings = {"steps": 5} if stepped else {}
    method = make_method(name, {**settings, **({"solver": solver[0]} if solver else {})})
    groups = [str(g) for g in range(problem.n_groups)]
    one = fit(method, problem, groups, test=test)
    two = fit(method, other, groups, test=other_test)
    assert (two.status, two.step_index) == (one.status, one.step_index)
    torch.testing.assert_close(two.step.head.weight, one.step.head.weight, rtol=1e-5, atol=1e-6)
    if one.step.sample_weight is not None:
        torch.testing.assert_close(
            two.step.sample_weight, one.step.sample_weight, rtol=1e-5, atol=1e-8
        )
    if one.step.influence is not None:
        torch.testing.assert_close(two.step.influence, one.step.influence, rtol=1e-4, atol=1e-7)
    scores = ["step", "split", "group", "metric"]
    both = one.history.merge(two.history, on=scores, suffixes=("", "_stored"))
    both = both[both.metric.isin(["accuracy", "loss", "worst_group_accuracy"])]
    assert len(both) > 10
    np.testing.assert_allclose(both.value_stored, both.value, rtol=1e-4, atol=1e-6)


def test_a_continued_run_equals_one_long_run_bit_by_bit(problems):
    *_, other, test = problems
    groups = [str(g) for g in range(other.n_groups)]
    whole = fit(make_method("gsr", {"steps": 6}), other, groups, test=test)
    half = fit(make_method("gsr", {"steps": 3}), other, groups, test=test)
    rest = fit(make_method("gsr", {"steps": 6}), other, groups, test=test, resume=half)
    assert torch.equal(rest.last.sample_weight, whole.last.sample_weight)
    assert torch.equal(rest.last.head.weight, whole.last.head.weight)
