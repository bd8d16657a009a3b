from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.errors import SettingError
from gsr_core.linear.head import Head
from gsr_core.methods.base import LabelNeeds, Method, Step
from gsr_core.methods.fit import fit
from gsr_core.methods.gsr import GSR
from gsr_core.methods.history import HISTORY_COLUMNS
from gsr_core.methods.llr import LLR
from gsr_core.progress import Status

GROUPS = ["a0", "a1", "b0", "b1"]
PER_GROUP = {"accuracy", "loss", "count"}
OVERALL = {
    "worst_group_accuracy",
    "worst_group_loss",
    "mean_accuracy",
    "mean_loss",
    "adjusted_accuracy",
}


class Failing(Method):
    """Gives heads of zeros, and from step `bad` on one that is not finite."""

    name = "failing"
    title = "Failing"
    summary = "Fails."
    needs = LabelNeeds.NONE
    bad = 3
    value = float("nan")

    @property
    def max_steps(self):
        return 5

    def iterate(self, problem, checkpoint=None):
        d = problem.weighted.features.shape[1]
        for step in range(1, 6):
            weight = torch.zeros(problem.n_classes, d, device=problem.compute.device)
            if step >= self.bad:
                weight[0, 0] = self.value
            yield Step(Head(weight, torch.zeros_like(weight[:, 0])), None)


class FailingAtOnce(Failing):
    bad = 1


class Infinite(Failing):
    value = float("inf")


def values(result, split, group, step=1):
    history = result.history
    rows = history[
        (history["split"] == split) & (history["group"] == group) & (history["step"] == step)
    ]
    return dict(zip(rows["metric"], rows["value"], strict=True))


def test_the_history_holds_every_metric_of_every_split_once(make_problem):
    problem, test = make_problem()
    result = fit(LLR(), problem, GROUPS, test=test)
    assert list(result.history.columns) == HISTORY_COLUMNS
    assert not result.history.duplicated(["step", "split", "group", "metric"]).any()
    for split in ("target", "val", "test"):
        assert set(values(result, split, "")) == OVERALL
        for group in GROUPS:
            assert set(values(result, split, group)) == PER_GROUP
    assert set(values(result, "heldout", "a0")) == {
        "count",
        "weight_sum",
        "weight_mean",
        "effective_sample_size",
    }
    assert values(result, "heldout", "")["effective_sample_size"] == pytest.approx(80)
    assert set(values(result, "", "")) == {
        "objective",
        "gradient_norm",
        "relative_gradient_norm",
        "solved",
        "step_size",
        "clipped",
        "seconds",
    }


def test_without_test_rows_there_are_no_test_metrics(make_problem):
    assert "test" not in set(fit(LLR(), make_problem()[0], GROUPS).history["split"])


def test_the_worst_group_is_the_lowest_and_the_adjusted_accuracy_follows_the_shares(make_problem):
    problem, test = make_problem()
    shares = np.array([0.7, 0.05, 0.05, 0.2])
    result = fit(LLR(), replace(problem, training_shares=shares), GROUPS, test=test)
    accuracy = [values(result, "test", group)["accuracy"] for group in GROUPS]
    losses = [values(result, "test", group)["loss"] for group in GROUPS]
    overall = values(result, "test", "")
    assert overall["worst_group_accuracy"] == min(accuracy)
    assert overall["worst_group_loss"] == max(losses)
    assert overall["adjusted_accuracy"] == pytest.approx(shares @ accuracy)


def test_an_absent_group_is_nan_and_passed_over(make_problem):
    problem, test = make_problem()
    keep = ~test.groups[:, 1]
    fewer = replace(
        test, source=test.features[keep], labels=test.labels[keep], groups=test.groups[keep]
    )
    result = fit(LLR(), problem, GROUPS, test=fewer)
    assert np.isnan(values(result, "test", "a1")["accuracy"])
    assert values(result, "test", "a1")["count"] == 0
    overall = values(result, "test", "")
    present = [values(result, "test", group)["accuracy"] for group in ("a0", "b0", "b1")]
    assert overall["worst_group_accuracy"] == min(present)
    assert np.isnan(overall["adjusted_accuracy"])


@pytest.mark.parametrize("method", [Failing(), Infinite()])
def test_a_number_that_is_not_finite_fails_the_fit_and_keeps_the_steps_before(make_problem, method):
    result = fit(method, make_problem()[0], GROUPS)
    assert result.status == Status.FAILED
    assert result.last_index == 2
    assert result.message.startswith("step 3 gave a number that is not finite")
    assert result.step.head.weight.isfinite().all()
    assert set(result.history["step"]) == {1, 2}


def test_a_first_step_that_is_not_finite_raises(make_problem):
    with pytest.raises(FloatingPointError, match="step 1 gave a number that is not finite"):
        fit(FailingAtOnce(), make_problem()[0], GROUPS)


def test_the_monitor_sees_each_step_with_its_records(make_problem):
    seen = []
    result = fit(LLR(), make_problem()[0], GROUPS, monitor=seen.append)
    (progress,) = seen
    assert (progress.step_index, progress.steps, progress.best_index) == (1, 1, 1)
    assert len(progress.records) == len(result.history)
    assert 0 < progress.seconds <= result.seconds


def test_the_average_chooses_when_asked(make_problem):
    problem, _ = make_problem()
    result = fit(GSR(steps=12, lr=5.0, selection="average"), problem, GROUPS)
    val = result.history.query("split == 'val' and group == ''")
    wide = val.pivot(index="step", columns="metric", values="value")
    tied = wide[wide["mean_accuracy"] == wide["mean_accuracy"].max()]
    assert result.step_index == tied["mean_loss"].idxmin()


class InfersGroups(GSR):
    """GSR that takes the sign of a feature of val for the groups."""

    name = "infers"

    def iterate(self, problem, checkpoint=None):
        side = problem.val.features[:, 0] > 0
        for step in super().iterate(problem, checkpoint):
            yield replace(step, inferred_val=torch.stack([side, ~side], dim=1))


def test_inferred_groups_choose_when_asked(make_problem):
    problem, _ = make_problem()
    method = InfersGroups(steps=12, lr=5.0, selection="worst_inferred_group")
    result = fit(method, problem, GROUPS)
    val = result.history.query("split == 'val' and group == ''")
    wide = val.pivot(index="step", columns="metric", values="value")
    best = wide["worst_inferred_group_accuracy"].max()
    tied = wide[wide["worst_inferred_group_accuracy"] == best]
    assert result.step_index == tied["worst_inferred_group_loss"].idxmin()
    assert method.labels_used == ("target",)


@pytest.mark.parametrize(
    ("sizes", "counting"), [((9, 30), [1]), ((10, 30), [0, 1]), ((9, 3), [0, 1])]
)
def test_inferred_groups_of_few_rows_choose_only_where_there_are_no_others(
    make_problem, sizes, counting
):
    problem, _ = make_problem()
    head = fit(LLR(), problem, GROUPS).step.head
    right = head.logits(problem.val.features).argmax(dim=1) == problem.val.labels
    # Rows that are wrong come first, so that the first cell is the worse one.
    place = right.int().argsort().argsort()
    cells = torch.stack([place < sizes[0], place >= len(place) - sizes[1]], dim=1)

    class InfersByErrors(LLR):
        name = "infers"

        def iterate(self, problem, checkpoint=None):
            for step in super().iterate(problem, checkpoint):
                yield replace(step, inferred_val=cells)

    result = fit(InfersByErrors(), problem, GROUPS)
    accuracy = [float(right[cells[:, cell]].double().mean()) for cell in (0, 1)]
    assert accuracy[0] < accuracy[1]
    found = values(result, "val", "")["worst_inferred_group_accuracy"]
    assert found == pytest.approx(min(accuracy[cell] for cell in counting))


def test_a_method_without_inferred_groups_cannot_be_chosen_by_them(make_problem):
    problem, _ = make_problem()
    with pytest.raises(SettingError, match="gsr infers no groups; choose worst_group or average"):
        fit(GSR(selection="worst_inferred_group"), problem, GROUPS)
