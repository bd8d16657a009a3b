from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.inference import ssa
from gsr_core.inference.agreement import agreement
from gsr_core.inference.base import OUTLIER
from gsr_core.inference.ssa import SSAInference, confident_and_balanced


def test_the_groups_of_target_are_found_in_the_others(blobs):
    found = SSAInference().infer(blobs)
    for split in ("weighted", "val"):
        true = getattr(blobs, split).groups.cpu().numpy()
        assert agreement(getattr(found, split), true).ari == 1
    assert found.names[0] == "class 0, group 0"
    # Known rows keep their groups.
    assert agreement(found.target, blobs.target.groups.cpu().numpy()).ari == 1
    assert "are right on 100.0%" in found.choice


def test_no_row_is_labelled_by_a_predictor_that_saw_it(blobs, monkeypatch):
    """The rows that each fit was given, against those that its predictor labels afterwards."""
    given, labelled = [], []
    real_fit, real_predict = ssa.fitted_head, ssa._Known.predict

    def fitted_head(problem, rows, **settings):
        head = real_fit(problem, rows, **settings)
        given.append((head, {tuple(row) for row in rows.features.tolist()}))
        return head

    def predict(self, head, rows):
        seen = next(rows_seen for made, rows_seen in given if made is head)
        labelled.append((seen, {tuple(row) for row in rows.features.tolist()}))
        return real_predict(self, head, rows)

    monkeypatch.setattr(ssa, "fitted_head", fitted_head)
    monkeypatch.setattr(ssa._Known, "predict", predict)
    SSAInference(threshold=0.5).infer(blobs)
    weighted = {tuple(row) for row in blobs.weighted.features.tolist()}
    target = {tuple(row) for row in blobs.target.features.tolist()}
    pseudo = [seen & weighted for _, seen in given]
    assert len(given) == 9
    assert any(pseudo)
    # A third of the weighted rows at a time is labelled for good: the last but one of each part.
    finals = [
        (seen, rows)
        for seen, rows in labelled
        if rows <= weighted and len(rows) == len(weighted) // 3
    ]
    assert len(finals) == 3
    assert set.union(*(rows for _, rows in finals)) == weighted
    for seen, rows in finals:
        assert not seen & rows
    # Half of the labelled rows is left to choose by.
    assert all(0.4 < len(seen & target) / len(target) < 0.6 for _, seen in given)


def test_pseudo_labels_are_confident_and_no_group_overwhelms():
    rng = np.random.default_rng(0)
    probability = rng.dirichlet([0.2, 0.2, 0.2], size=300)
    probability[250:] = [0.99, 0.005, 0.005]
    labelled = np.array([2, 10, 5])
    rows, group = confident_and_balanced(probability, labelled, 0.9)
    confidence = probability.max(axis=1)
    assert (confidence[rows] >= 0.9).all()
    np.testing.assert_array_equal(group, probability[rows].argmax(axis=1))
    total = labelled + np.bincount(group, minlength=3)
    assert len(set(total)) == 1
    for each in range(3):
        left = np.setdiff1d(np.flatnonzero(probability.argmax(axis=1) == each), rows)
        assert confidence[left].max() <= confidence[rows[group == each]].min()


def test_without_a_confident_row_of_the_rarest_group_only_gaps_are_filled():
    probability = np.tile([0.98, 0.02], (20, 1))
    rows, _ = confident_and_balanced(probability, np.array([1, 3]), 0.95)
    assert len(rows) == 2
    rows, _ = confident_and_balanced(probability, np.array([4, 3]), 0.95)
    assert len(rows) == 0


@pytest.mark.parametrize("threshold", [0.95, 2 / 3])
def test_thresholds_are_probabilities(blobs, threshold):
    table = SSAInference(threshold=threshold, rounds=2).infer(blobs).candidates
    assert (table.loc[table["round"] == 1, "pseudo_labelled"] == 0).all()
    assert (table["pseudo_labelled"] <= 80).all()


def test_rows_of_target_without_a_group_teach_nothing(blobs):
    groups = blobs.target.groups.clone()
    groups[::3] = False
    found = SSAInference().infer(replace(blobs, target=replace(blobs.target, groups=groups)))
    assert (found.target[::3] == OUTLIER).all()
    assert (np.delete(found.target, np.s_[::3]) != OUTLIER).all()
    assert agreement(found.weighted, blobs.weighted.groups.cpu().numpy()).ari > 0.9


def test_overlapping_groups_are_told_by_their_combination(blobs):
    attribute = blobs.target.groups[:, 1::2].any(dim=1)
    groups = torch.stack([torch.ones_like(attribute), attribute], dim=1)
    found = SSAInference().infer(replace(blobs, target=replace(blobs.target, groups=groups)))
    assert set(found.names) == {
        "class 0, group 0",
        "class 0, group 0 + 1",
        "class 1, group 0",
        "class 1, group 0 + 1",
    }
    assert agreement(found.weighted, blobs.weighted.groups.cpu().numpy()).ari > 0.9


def test_a_class_without_labelled_rows_is_a_group_of_its_own(blobs):
    groups = blobs.target.groups & (blobs.target.labels == 0)[:, None]
    found = SSAInference().infer(replace(blobs, target=replace(blobs.target, groups=groups)))
    assert "class 1, group unknown" in found.names
    labels = blobs.weighted.labels.cpu().numpy()
    assert (found.weighted[labels == 1] == found.names.index("class 1, group unknown")).all()
