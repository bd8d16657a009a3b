import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from gsr_core.errors import SettingError
from gsr_core.linear.iterative import SolveEnding
from gsr_core.linear.solver import FitEnding, Solver
from gsr_core.methods.base import Values
from gsr_core.methods.fit import fit
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.progress import Status

GROUPS = ["a0", "a1", "b0", "b1"]
FEW = {"steps": 5, "reduce": "pca", "heads": 3, "early_steps": 4}


def quick(name):
    """The method with little to compute, and without UMAP, which has to compile."""
    method = METHODS[name]
    known = method().settings()
    return method(**{key: value for key, value in FEW.items() if key in known})


HEADS = [name for name, each in METHODS.items() if each.acts_on == "head"]


@pytest.fixture(params=HEADS)
def name(request):
    return request.param


def test_it_is_valid_with_no_arguments_and_describes_itself(name):
    method = METHODS[name]()
    assert method.name == name
    assert method.title
    assert method.summary.endswith(".")
    # It stands behind "When to use:".
    assert method.use_when.endswith(".")
    assert not method.use_when.startswith("Use")
    assert method.max_steps >= 1


def test_weights_are_not_negative_and_sum_to_one(name, make_problem):
    problem, _ = make_problem()
    seen = []
    fit(quick(name), problem, GROUPS, monitor=lambda progress: seen.append(progress.step))
    assert seen
    for step in seen:
        if step.sample_weight is not None:
            assert (step.sample_weight >= 0).all()
            assert float(step.sample_weight.sum()) == pytest.approx(1, abs=1e-12)
            assert len(step.sample_weight) == len(getattr(problem, METHODS[name].values_on))


def test_it_says_whether_it_learns_weights(name, make_problem):
    weight = fit(quick(name), make_problem()[0], GROUPS).last.sample_weight
    uneven = weight is not None and bool((weight != weight[0]).any())
    assert (METHODS[name].values is not Values.NONE) == uneven


def test_a_solve_that_falls_short_is_no_solution(make_problem, exact_solves_stall):
    for name in ("gsr", "llr"):
        step = next(quick(name).iterate(make_problem()[0]))
        assert step.measured.ending is SolveEnding.STALLED
        # The weights of gsr move by such a solve; llr has the influence only to be looked at.
        assert step.solved == (name == "llr")
        assert (exact_solves_stall in step.note) != step.solved


@pytest.mark.parametrize("settings", [{}, {"solver": "online"}])
@pytest.mark.parametrize("name", ["gsr", "llr", "group_dro", "dfr"], scope="function")
def test_a_line_search_that_fails_is_no_solution_and_the_note_says_so(
    name, settings, make_problem, monkeypatch
):
    real = Solver.solve

    def uphill(self, *args, **kwargs):
        solution = real(self, *args, **kwargs)
        return replace(solution, columns=-solution.columns)

    monkeypatch.setattr(Solver, "solve", uphill)
    known = METHODS[name]().settings()
    method = replace(quick(name), **{key: settings[key] for key in settings if key in known})
    step = next(method.iterate(make_problem()[0]))
    assert not step.solved
    assert str(FitEnding.LINE_SEARCH) in step.note


def test_llr_says_when_it_was_fitted_on_train(make_problem):
    problem, _ = make_problem()
    assert "train" not in fit(METHODS["llr"](), problem, GROUPS).step.note
    problem = replace(problem, weighted_split="train")
    note = fit(METHODS["llr"](), problem, GROUPS).step.note
    assert note.startswith("The bundle has no heldout split: the head was refitted")


def test_the_same_seed_gives_the_same_result(name, make_problem):
    one, two = (fit(quick(name), make_problem()[0], GROUPS) for _ in range(2))
    assert torch.equal(one.step.head.weight, two.step.head.weight)
    assert torch.equal(one.last.head.weight, two.last.head.weight)
    assert one.step_index == two.step_index


def test_the_order_of_samples_does_not_matter(name, make_problem, with_order):
    problem, _ = make_problem()
    order = torch.randperm(len(problem.weighted), generator=torch.Generator().manual_seed(3))
    one = fit(quick(name), problem, GROUPS).last
    two = fit(quick(name), with_order(problem, order), GROUPS).last
    torch.testing.assert_close(one.head.weight, two.head.weight, rtol=1e-6, atol=1e-7)
    if one.sample_weight is not None:
        moved = order if METHODS[name].values_on == "weighted" else slice(None)
        torch.testing.assert_close(
            one.sample_weight[moved], two.sample_weight, rtol=1e-6, atol=1e-9
        )


def test_settings_survive_json(name):
    method = quick(name)
    assert make_method(name, json.loads(json.dumps(method.settings()))) == method


def test_settings_typed_as_text_are_read(name):
    method = quick(name)
    assert make_method(name, {key: str(value) for key, value in method.settings().items()}) == (
        method
    )


def test_an_unknown_setting_is_named(name):
    with pytest.raises(SettingError, match=rf"{name} has no setting 'sed' \(did you mean 'seed'"):
        make_method(name, {"sed": 1})


def test_a_value_that_is_not_allowed_is_named_with_its_setting(name):
    with pytest.raises(SettingError, match=rf"{name}: seed is -1; input should be"):
        make_method(name, {"seed": -1})
    with pytest.raises(SettingError, match=rf"{name}: seed is 'many'; "):
        make_method(name, {"seed": "many"})


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_a_penalty_must_be_positive_and_finite(name, value):
    if "l2" in METHODS[name]().settings():
        with pytest.raises(SettingError, match=f"{name}: l2 is "):
            make_method(name, {"l2": value})


def test_an_unknown_method_is_named_with_those_there_are():
    with pytest.raises(
        SettingError, match=r"no method 'gs' \(did you mean 'gsr'\?\); 'gsr methods'"
    ):
        make_method("gs")


def test_a_monitor_that_returns_true_stops_and_the_steps_are_kept(name, make_problem):
    problem, _ = make_problem()
    method = quick(name)
    result = fit(method, problem, GROUPS, monitor=lambda progress: progress.step_index == 2)
    done = min(2, method.max_steps)
    assert result.last_index == done
    assert set(result.history["step"]) == set(range(1, done + 1))
    assert result.status == (Status.CANCELLED if method.max_steps > 2 else Status.FINISHED)


def test_test_rows_do_not_select(name, make_problem):
    problem, test = make_problem()
    flipped = replace(test, labels=1 - test.labels)
    results = [fit(quick(name), problem, GROUPS, test=rows) for rows in (None, test, flipped)]
    assert len({result.step_index for result in results}) == 1
    for result in results[1:]:
        assert torch.equal(result.step.head.weight, results[0].step.head.weight)
        assert torch.equal(result.last.head.weight, results[0].last.head.weight)


READERS = [
    *((name, {}) for name in HEADS),
    ("gsr", {"selection": "average"}),
    ("gsr", {"group_signal": "val_loss"}),
    ("gsr", {"group_signal": "val_error", "selection": "average"}),
    ("gsr_hf", {"selection": "worst_group_earliest"}),
    ("gsr", {"selection": "worst_group_loss"}),
    ("maple", {"risk": "group_dro"}),
    ("maple", {"risk": "group_dro", "selection": "average"}),
    ("group_dro", {"solver": "online", "group_lr": 2.0}),
    ("group_dro", {"selection": "worst_group"}),
    ("spare", {"then": "gsr"}),
    ("spare", {"then": "group_dro", "selection": "worst_group"}),
    ("eiil", {"selection": "worst_inferred_group"}),
    ("ssa", {"then": "rwg"}),
    ("dfr", {"selection": "average"}),
    ("dfr", {"final": True}),
    ("l2r", {"selection": "average"}),
    ("afr", {"selection": "average"}),
    ("afr", {"solver": "exact"}),
    ("optweights", {"risk": "dro"}),
    ("optweights", {"selection": "average"}),
    ("evals", {"selection": "worst_group"}),
    ("evals", {"selection": "average", "penalty": "l1"}),
    ("rad", {"penalty": "l1"}),
    ("d3m", {"selection": "average"}),
    ("d3m", {"drop": "negative"}),
    ("auto_d3m", {"selection": "worst_group"}),
    ("auto_d3m", {"drop": "negative", "selection": "worst_group"}),
    ("xrm", {"selection": "worst_group"}),
    ("xrm", {"then": "rwg", "selection": "worst_group"}),
    ("class_scaling", {"chosen_on": "target"}),
    ("drops", {"selection": "average"}),
    ("projection", {"selection": "average"}),
    ("text_projection", {"selection": "average"}),
]
"""Each method, and each setting that changes which group labels it reads."""


@pytest.mark.parametrize(
    ("name", "changed"), READERS, ids=lambda each: each if isinstance(each, str) else str(each)
)
def test_the_group_labels_that_count_are_those_that_it_reads(name, changed, make_problem):
    """Shuffled group labels of a split change the kept head if, and only if, they are counted."""
    problem, _ = make_problem(n=60, n_target=40)
    known = METHODS[name]().settings()
    faster = {"steps": 12, "reduce": "pca", "heads": 2, "early_steps": 4, "folds": 2}
    method = make_method(name, {**{k: v for k, v in faster.items() if k in known}, **changed})

    def head(seen):
        kept = fit(method, seen, GROUPS).step.head
        # Some methods change nothing but the bias.
        return torch.cat([kept.weight, kept.bias[:, None]], dim=1)

    def shuffled(split, seed):
        rows = getattr(problem, split)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        return replace(problem, **{split: replace(rows, groups=rows.groups[order])})

    as_it_is = head(problem)
    for split in ("weighted", "target"):
        count = 12 if split in method.labels_used else 2
        moved = any(not torch.equal(head(shuffled(split, seed)), as_it_is) for seed in range(count))
        assert moved == (split in method.labels_used), f"{split} is read: {moved}"
    judged_by_another = _with_a_judge_who_prefers_another_step(method, problem)
    moved = not torch.equal(head(judged_by_another), as_it_is)
    assert moved == ("val" in method.labels_used), f"val is read: {moved}"


def _with_a_judge_who_prefers_another_step(method, problem):
    """The problem with one grouped row in val, on which the kept step is not the best."""
    heads = []
    kept = fit(method, problem, GROUPS, monitor=lambda now: heads.append(now.step.head)).step_index
    val = problem.val
    logits = [each.logits(val.features) for each in heads]
    losses = torch.stack([cross_entropy(each, val.labels, reduction="none") for each in logits])
    wrong = torch.stack([each.argmax(dim=1) != val.labels for each in logits])
    preferred = (losses.double() + 1e6 * wrong).argmin(dim=0)
    others = torch.where(preferred != kept - 1)[0]
    # A rule that keeps the earliest of equals needs one that is right where the kept one errs.
    others = others[wrong[kept - 1][others].argsort(descending=True, stable=True)]
    groups = torch.zeros_like(val.groups)
    groups[others[0] if len(others) else 0, 0] = True
    return replace(problem, val=replace(val, groups=groups))
