"""Which step each rule keeps, recomputed from the heads of all steps."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy

from gsr_core.methods.fit import fit
from gsr_core.methods.gsr import GSR
from gsr_core.methods.selection import SELECTION_RULES, Score

GROUPS = ["a0", "a1", "b0", "b1"]


@pytest.fixture
def judged(make_problem):
    """Runs GSR under a rule; gives what was kept, and the heads' scores on val."""

    def run(selection):
        problem, _ = make_problem(n=120, n_target=60)
        heads = []
        result = fit(
            GSR(steps=25, lr=3.0, selection=selection),
            problem,
            GROUPS,
            monitor=lambda now: heads.append(now.step.head),
        )
        val = problem.val
        logits = [head.logits(val.features).double() for head in heads]
        members = [member for member in val.groups.T if member.any()]
        loss = [
            max(float(cross_entropy(each[m], val.labels[m])) for m in members) for each in logits
        ]
        auroc = []
        for each in logits:
            of_groups = []
            for member in members:
                label = int(val.labels[member][0])
                rows = (member | (val.labels != label)).cpu()
                score = (each[:, label] - each[:, 1 - label]).cpu()
                of_groups.append(roc_auc_score(member.cpu()[rows], score[rows]))
            auroc.append(min(of_groups))
        return result, np.array(loss), np.array(auroc)

    return run


def test_the_lowest_loss_of_the_worst_group_is_kept(judged):
    result, loss, _ = judged("worst_group_loss")
    assert result.step_index == loss.argmin() + 1
    assert len(set(loss)) > 5


def test_the_highest_auroc_of_the_worst_group_is_kept_ties_by_loss(judged):
    result, loss, auroc = judged("worst_group_auroc")
    best = np.flatnonzero(auroc == auroc.max())
    assert result.step_index == best[loss[best].argmin()] + 1
    history = result.history
    kept = history[history["metric"] == "worst_group_auroc"]["value"].to_numpy()
    np.testing.assert_allclose(kept, auroc, atol=1e-12)


def test_only_the_rule_that_asks_has_the_auroc(judged):
    result, *_ = judged("worst_group")
    assert "worst_group_auroc" not in set(result.history["metric"])


def test_a_loss_counts_as_the_geometric_mean_of_probabilities():
    probability = torch.tensor([0.2, 0.9, 0.5])
    loss = float(-probability.log().mean())
    score = SELECTION_RULES["worst_group_loss"].score_of({"worst_group_loss": loss})
    assert score == Score(pytest.approx(float(probability.prod() ** (1 / 3))), loss)
