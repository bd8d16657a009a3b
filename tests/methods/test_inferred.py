from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from gsr_core.data.groups import membership_from_index
from gsr_core.data.problem import Problem, Rows
from gsr_core.inference.base import OUTLIER, InferredGroups
from gsr_core.methods.base import LabelNeeds
from gsr_core.methods.fit import fit
from gsr_core.methods.group_dro import GroupDRO
from gsr_core.methods.gsr import GSR
from gsr_core.methods.gsr_variants import GSRHF
from gsr_core.methods.importance import importance
from gsr_core.methods.inferred import (
    EIIL,
    SSA,
    XRM,
    FeaSP,
    George,
    GraSP,
    Spare,
    with_inferred,
)
from gsr_core.methods.llr import LLR
from gsr_core.methods.maple import MAPLE
from gsr_core.methods.pde import PDE
from gsr_core.methods.rwg import RWG
from gsr_core.methods.subg import SUBG

GROUPS = ["a0", "a1", "b0", "b1"]
ALL = [Spare, EIIL, George, GraSP, FeaSP, SSA, XRM]
TRAINING = {
    "group_dro": GroupDRO,
    "rwg": RWG,
    "subg": SUBG,
    "pde": PDE,
    "gsr": GSR,
    "gsr_hf": GSRHF,
    "maple": partial(MAPLE, risk="group_dro"),
}
ONE_STEP = ("rwg", "subg")


@pytest.fixture(params=ALL, ids=lambda method: method.name)
def method(request):
    return request.param


def planted(problem, group) -> InferredGroups:
    """Groups as if they had been inferred; target and val have their true ones."""
    return InferredGroups(
        weighted=np.asarray(group),
        target=problem.target.groups.cpu().numpy().argmax(axis=1),
        val=problem.val.groups.cpu().numpy().argmax(axis=1),
        names=(
            "class 0, cluster 0",
            "class 0, cluster 1",
            "class 1, cluster 0",
            "class 1, cluster 1",
        ),
        choice="as planted",
        candidates=pd.DataFrame(
            {"class": [0, 0, 1], "silhouette": [0.95, 0.2, 0.5], "chosen": [True, False, True]}
        ),
    )


def true_groups(rows) -> np.ndarray:
    return rows.groups.cpu().numpy().argmax(axis=1)


@pytest.fixture
def given(monkeypatch):
    """Has EIIL infer what a test plants."""

    def given(inferred):
        monkeypatch.setattr(EIIL, "infer", lambda self, problem: inferred)
        monkeypatch.setattr(Spare, "infer", lambda self, problem: inferred)

    return given


@pytest.mark.parametrize("then", TRAINING)
def test_with_the_true_groups_inferred_it_is_the_method_that_follows(make_problem, given, then):
    problem, _ = make_problem()
    given(planted(problem, true_groups(problem.weighted)))
    shared = {"l2": 0.03, "standardise": False, "seed": 3}
    steps = {} if then in ONE_STEP else {"steps": 4}
    ours = list(zip(range(3), EIIL(then=then, **shared, **steps).iterate(problem), strict=False))
    theirs = list(zip(range(3), TRAINING[then](**shared, **steps).iterate(problem), strict=False))
    assert len(ours) == len(theirs) >= 1
    for (_, one), (_, two) in zip(ours, theirs, strict=True):
        assert torch.equal(one.head.weight, two.head.weight)
        assert torch.equal(one.sample_weight, two.sample_weight)
        # These would speak of the inferred groups.
        assert one.group_weight is None
        assert one.influence is None
        assert one.note.endswith(two.note)


@pytest.mark.parametrize("then", [*TRAINING, "importance"])
def test_outliers_weigh_nothing_and_the_fit_is_that_without_them(make_problem, given, then):
    problem, _ = make_problem()
    group = true_groups(problem.weighted)
    group[5:17] = OUTLIER
    inferred = planted(problem, group)
    given(inferred)
    method = Spare(then=then, steps=3) if then == "importance" else EIIL(then=then, steps=3)
    step = next(method.iterate(problem))
    assert (step.sample_weight[5:17] == 0).all()
    assert float(step.sample_weight.sum()) == pytest.approx(1)
    assert step.inferred_group.tolist() == group.tolist()
    assert step.note.startswith("4 groups inferred, 12 of 80 samples are outliers of weight zero")
    known, kept = with_inferred(problem, inferred)
    assert kept.tolist() == np.flatnonzero(group != OUTLIER).tolist()
    if then != "importance":
        alone = next(method.training().iterate(known))
        assert torch.equal(step.head.weight, alone.head.weight)
        assert torch.equal(step.sample_weight[kept], alone.sample_weight)


@pytest.mark.parametrize("then", TRAINING)
def test_a_group_absent_from_target_and_val_stops_nothing(make_problem, given, then):
    problem, _ = make_problem()
    inferred = planted(problem, true_groups(problem.weighted))
    gone = {
        split: np.where(getattr(inferred, split) == 2, OUTLIER, getattr(inferred, split))
        for split in ("target", "val")
    }
    given(replace(inferred, **gone))
    result = fit(EIIL(then=then, steps=3), problem, GROUPS)
    assert result.status == "finished"
    assert result.step.solved
    assert result.step.head.weight.isfinite().all()


def test_the_problem_keeps_nothing_of_the_true_groups(make_problem):
    problem, _ = make_problem()
    group = true_groups(problem.weighted)
    group[:3] = OUTLIER
    inferred = planted(problem, group)
    known, _ = with_inferred(problem, inferred)
    assert known.train is None
    assert known.training_shares is None
    np.testing.assert_array_equal(
        known.weighted.groups.cpu().numpy(), membership_from_index(group[3:], 4)
    )
    np.testing.assert_array_equal(known.weighted.position, problem.weighted.position[3:])
    assert torch.equal(known.weighted.features, problem.weighted.features[3:])


def test_shuffled_group_columns_change_no_head(method, make_problem):
    """Fails if the inference or what follows reads a true group that it must not."""
    problem, _ = make_problem()

    def shuffled(rows: Rows) -> Rows:
        return replace(rows, groups=rows.groups[torch.randperm(len(rows))])

    splits = ["weighted", "val"] + ["target"] * (method.needs is LabelNeeds.NONE)
    moved = replace(problem, **{split: shuffled(getattr(problem, split)) for split in splits})
    for one, two in zip(
        method(steps=3).iterate(problem), method(steps=3).iterate(moved), strict=True
    ):
        assert torch.equal(one.head.weight, two.head.weight)
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.inferred_val, two.inferred_val)


def test_the_worst_inferred_group_of_val_can_select(method, make_problem):
    problem, _ = make_problem()
    result = fit(method(selection="worst_inferred_group", steps=4), problem, GROUPS)
    history = result.history
    found = history[history["metric"] == "worst_inferred_group_accuracy"]
    assert len(found) == result.last_index
    assert found["value"].max() == found.set_index("step")["value"][result.step_index]


@pytest.mark.parametrize("then", ["group_dro", "pde", "gsr", "gsr_hf", "maple"])
def test_a_continued_run_is_one_long_run(make_problem, then):
    problem, _ = make_problem()
    method = George(then=then, steps=4, l2=0.001)
    whole = [step for _, step in zip(range(4), method.iterate(problem), strict=False)]
    assert len(whole) >= 3
    rest = method.iterate(problem, whole[1].checkpoint)
    for expected in whole[2:]:
        step = next(rest)
        assert torch.equal(step.head.weight, expected.head.weight)
        assert torch.equal(step.sample_weight, expected.sample_weight)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_spares_masses_follow_the_power_and_classes_are_equal(power):
    sizes = np.array([95, 3, 2, 40, 10])
    group = np.random.default_rng(0).permutation(np.repeat(np.arange(5), sizes))
    labels = (group > 2).astype(int)
    drawn = importance(group, labels, {0: power, 1: 1.0})
    mass = np.bincount(group, weights=drawn)
    expected = sizes[:3] ** (1 - power)
    np.testing.assert_allclose(mass[:3], expected / expected.sum() / 2, rtol=1e-12)
    np.testing.assert_allclose(mass[3:], 0.25, rtol=1e-12)
    assert all(np.ptp(drawn[group == each]) == 0 for each in range(5))


def test_spares_power_is_by_the_chosen_silhouette_of_the_class(make_problem, given):
    problem, _ = make_problem()
    group = true_groups(problem.weighted)
    given(planted(problem, group))
    labels = problem.weighted.labels.cpu().numpy()
    for method, powers in (
        (Spare(), {0: 1.0, 1: 2.0}),
        (Spare(clear=0.5), {0: 1.0, 1: 1.0}),
        (Spare(clear=0.96, power_blurred=0.5), {0: 0.5, 1: 0.5}),
        (Spare(power_clear=0.0), {0: 0.0, 1: 2.0}),
    ):
        (step,) = method.iterate(problem)
        expected = importance(group, labels, powers)
        np.testing.assert_allclose(step.sample_weight.cpu().numpy(), expected, rtol=1e-12)
        size = f"{1 / np.square(expected).sum():,.0f} of 80"
        assert f"effective sample size {size}" in step.note


def test_the_minority_is_found_and_the_worst_group_gains(make_problem):
    problem, test = make_problem(n=400, n_target=200, minority=0.05)

    def worst(method) -> float:
        history = fit(method, problem, GROUPS, test=test).history
        rows = history.query("split == 'test' and metric == 'worst_group_accuracy'")
        return float(rows["value"].iloc[-1])

    plain = worst(LLR())
    assert worst(EIIL()) > plain + 0.2
    assert worst(George()) > plain + 0.2
    assert worst(SSA()) > plain + 0.2
    assert worst(XRM()) > plain + 0.2
    assert worst(Spare()) > plain + 0.2
    # Of an earlier head the clusters are pure but their silhouettes below 0.9: the published
    # power, 2, overdoes it.
    early = {"early_steps": 4}
    assert worst(Spare(power_blurred=1.0, **early)) > max(plain, worst(Spare(**early))) + 0.2


@pytest.mark.parametrize(
    ("shift", "recall", "precision", "near"), [(10, 1.0, 1.0, 0.01), (3, 0.95, 0.9, 0.03)]
)
def test_spare_on_the_gaussians_of_its_specification(compute, shift, recall, precision, near):
    """Label at ±1, attribute at ±shift, 5 % minority: it does what balancing true groups does."""
    rng = np.random.default_rng(0)

    def rows(n, minority):
        labels = rng.integers(2, size=n)
        attribute = np.where(rng.random(n) < minority, 1 - labels, labels)
        features = rng.normal(size=(n, 30))
        features[:, 0] += 2 * labels - 1
        features[:, 1] += shift * (2 * attribute - 1)
        group = 2 * labels + attribute
        return Rows(
            torch.from_numpy(features.astype(np.float32)).to(compute.device),
            torch.from_numpy(labels).to(compute.device),
            torch.from_numpy(group[:, None] == np.arange(4)).to(compute.device),
            np.arange(n),
        )

    problem = Problem(
        rows(3000, 0.05), rows(200, 0.5), rows(200, 0.5), n_classes=2, compute=compute
    )
    test = rows(8000, 0.5)

    def worst(method):
        step = fit(method, problem, GROUPS).step
        right = step.head.logits(test.features).argmax(dim=1) == test.labels
        return min(float(right[member].double().mean()) for member in test.groups.T), step

    spare, step = worst(Spare(power_clear=1.0, power_blurred=1.0))
    group, labels = step.inferred_group.cpu().numpy(), problem.weighted.labels.cpu().numpy()
    small = np.zeros(3000, dtype=bool)
    for label in (0, 1):
        sizes = np.bincount(group[labels == label], minlength=group.max() + 1)
        small |= (labels == label) & (group != sizes.argmax())
    minority = problem.weighted.groups[:, [1, 2]].any(dim=1).cpu().numpy()
    assert (small & minority).sum() >= recall * minority.sum()
    assert (small & minority).sum() >= precision * small.sum()
    assert spare == pytest.approx(worst(RWG())[0], abs=near)
    assert spare > 0.78
    assert worst(LLR())[0] < 0.3
