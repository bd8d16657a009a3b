"""Runs whose method sees other groups than those by which they are judged."""

import numpy as np
import pandas as pd
import pytest

from gsr_core.comparing.entries import entries
from gsr_core.data.groups import Group
from gsr_core.data.problem import load_problem
from gsr_core.data.seen import seen_groups
from gsr_core.data.variation import Variation
from gsr_core.errors import SettingError
from gsr_core.methods.registry import METHODS
from gsr_core.runs.cautions import cautions
from gsr_core.runs.execute import continue_run, execute
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.influence import influence_at
from gsr_core.runs.protocol import protocol_of
from gsr_core.runs.samples import INFLUENCE, goal_weights, sample_table
from gsr_core.runs.store import create_run
from gsr_core.runs.summary import run_label


def groups_of(*columns):
    """The groups of some columns crossed, in the order of their values, and their membership."""
    which, names = pd.MultiIndex.from_arrays(columns).factorize(sort=True)
    named = [", ".join(map(str, name)) for name in names]
    groups = [Group(name=name, definition=name) for name in named]
    return groups, which[:, None] == np.arange(len(names))


@pytest.fixture
def herd(workspace, write):
    """Two classes in two places; of the animals in the hills a seventh is grey, and misleads.

    The groups are the class by place and coat, or by the place and coat that are asked for.
    """
    rng = np.random.default_rng(5)
    split = np.repeat(["train", "heldout", "target", "val", "test"], [200, 200, 200, 200, 800])
    n = len(split)
    y, hills = rng.integers(2, size=n), rng.random(n) < 0.5
    grey = hills & (rng.random(n) < 0.15)
    sign = 2.0 * y - 1
    features = rng.normal(size=(n, 4))
    features[:, 0] += np.where(grey, -2, 3) * sign
    features[:, 1] += np.where(grey, 2, 0) * sign
    samples = pd.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(n)],
            "split": split,
            "y": y,
            "place": np.where(hills, "hills", "plain"),
            "coat": np.where(grey, "grey", "brown"),
        }
    )

    def herd(name="herd", judged=samples, **changed):
        classes = np.array(["cow", "goat"])[y]
        groups, membership = groups_of(classes, judged["place"], judged["coat"])
        return write(
            workspace,
            name,
            samples=samples.assign(**changed),
            groups=groups,
            membership=membership,
            classes=["cow", "goat"],
            features=features.astype(np.float32),
        )

    return herd


@pytest.fixture
def bundle(herd):
    """The herd itself."""
    return herd()


@pytest.fixture
def ended(workspace):
    """A run that has ended, of a method that sees some groups."""

    def ended(bundle, seen, method="gsr", **settings):
        few = {"steps": 30} if "steps" in METHODS[method]().settings() else {}
        variation = None if seen is None else {"seen_groups": seen}
        return compute_run(
            workspace, bundle, method, device="cpu", variation=variation, **{**few, **settings}
        )

    return ended


def of(run, split, metric, group=""):
    """A metric at the kept step."""
    at = run.metrics().query("split == @split and metric == @metric and group == @group")
    return float(at.set_index("step")["value"][run.state.best_step])


@pytest.mark.parametrize("method", ["gsr", "rwg"])
def test_the_groups_of_the_bundle_named_by_their_attributes_give_the_same_bits(
    ended, same_outcome, method
):
    same_outcome(ended("tiny", None, method), ended("tiny", ["class", "colour"], method))


@pytest.mark.parametrize("method", ["gsr", "rwg", "group_dro", "evals"])
def test_a_method_that_sees_the_classes_ends_as_on_a_bundle_of_classes(
    workspace, bundle, ended, write, method
):
    groups, membership = groups_of(np.array(["cow", "goat"])[bundle.y])
    write(
        workspace,
        "classes",
        samples=bundle.samples,
        groups=groups,
        membership=membership,
        classes=["cow", "goat"],
        features=np.array(bundle.features),
    )
    coarse, alone = ended("herd", [], method), ended("classes", None, method)
    for mine, other in zip(coarse.head(), alone.head(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert coarse.state.best_step == alone.state.best_step
    for run in (coarse, alone):
        assert run.groups_seen() == ["cow", "goat"]
    if alone.influence() is not None:
        np.testing.assert_array_equal(coarse.influence(), alone.influence())
    # What chose the step is what would have been val's there; the rest is of the bundle's groups.
    history = alone.metrics()
    chose = coarse.metrics().query("split == 'val seen'").assign(split="val")
    there = history[(history["split"] == "val") & ~history["metric"].str.contains("inferred")]
    pd.testing.assert_frame_equal(
        chose.reset_index(drop=True), there.reset_index(drop=True), check_exact=True
    )
    table = sample_table(coarse, "test")
    by_group = table.groupby("group")["correct"].mean()
    for group, accuracy in by_group.items():
        assert of(coarse, "test", "accuracy", group) == pytest.approx(accuracy)
    assert of(coarse, "test", "worst_group_accuracy") == pytest.approx(by_group.min())


def test_coarse_groups_hide_a_subgroup_that_fails_and_own_ones_show_it(bundle, ended):
    coarse, own = ended("herd", ["place"]), ended("herd", None)
    # By what it sees the run is fine, and the groups by which it is judged say that it is not.
    assert of(coarse, "val seen", "worst_group_accuracy") > 0.85
    assert of(coarse, "val", "worst_group_accuracy") < 0.7
    assert of(coarse, "test", "worst_group_accuracy") < 0.5
    failing = coarse.metrics().query("split == 'test' and metric == 'accuracy'")
    assert "grey" in failing.loc[failing["value"].idxmin(), "group"]
    assert (
        of(own, "test", "worst_group_accuracy") > of(coarse, "test", "worst_group_accuracy") + 0.2
    )
    # Both are judged on the same rows, and stand side by side.
    labels = [entry.label for entry in entries([coarse, own])]
    assert labels == ["GSR · steps 30 · seen groups class × place", "GSR · steps 30"]
    assert "seen groups class × place" in run_label(coarse)
    weight = coarse.metrics().query("metric == 'weight_mean'")["group"].unique()
    assert set(weight) == set(bundle.group_names)
    goal = coarse.metrics().query("metric == 'group_weight'")["group"].unique().tolist()
    assert goal == ["cow, hills", "cow, plain", "goat, hills", "goat, plain"]
    assert isinstance(cautions(coarse), list)


def test_groups_that_overlap_judge_a_method_that_sees_coarse_ones(workspace, bundle, ended, write):
    table = bundle.samples
    goat, hills, grey = table["y"] == 1, table["place"] == "hills", table["coat"] == "grey"
    flags = {"cow, hills": ~goat & hills, "goat, hills": goat & hills, "grey": grey}
    membership = np.stack([flag.to_numpy() for flag in flags.values()], axis=1)
    write(
        workspace,
        "flags",
        samples=table,
        groups=[Group(name=name, definition=name) for name in flags],
        membership=membership,
        classes=["cow", "goat"],
        features=np.array(bundle.features),
    )
    run, same = ended("flags", ["place"], steps=5), ended("herd", ["place"], steps=5)
    np.testing.assert_array_equal(run.head()[0], same.head()[0])
    table = sample_table(run, "test")
    for name, member in zip(flags, membership[table["row"]].T, strict=True):
        right = table["correct"].to_numpy()[member].mean()
        assert of(run, "test", "accuracy", name) == pytest.approx(right)
    weights = run.weights()
    member = membership[weights["row"]]
    for name, each in zip(flags, member.T, strict=True):
        share = weights["weight"].to_numpy()[each].sum()
        assert of(run, "heldout", "weight_sum", name) == pytest.approx(share)


def test_only_what_is_seen_decides_the_head(bundle, herd, ended):
    rng = np.random.default_rng(0)
    rows = np.arange(len(bundle))
    moved = {"coat": rows.copy(), "place": rows.copy()}
    for permuted in moved.values():
        for at in bundle.rows_of.values():
            permuted[at] = rng.permutation(at)
    before = ended("herd", ["place"]).head()
    for attribute, same in (("coat", True), ("place", False)):
        values = bundle.samples[attribute].to_numpy()[moved[attribute]]
        changed = {attribute: values}
        herd(f"other-{attribute}", judged=bundle.samples.assign(**changed), **changed)
        after = ended(f"other-{attribute}", ["place"]).head()
        assert np.array_equal(before[0], after[0]) is same, attribute


def test_influences_and_the_goal_are_of_the_groups_that_were_seen(bundle, ended):
    run = ended("herd", ["place"], steps=3)
    names = ["cow, hills", "cow, plain", "goat, hills", "goat, plain"]
    table = sample_table(run, "heldout")
    columns = [INFLUENCE + name for name in names]
    assert [column for column in table if column.startswith(INFLUENCE)] == columns
    step = run.state.best_step
    gamma = run.metrics().query("metric == 'group_weight' and step == @step")["value"]
    np.testing.assert_allclose(goal_weights(run, bundle, step), gamma / gamma.sum())
    np.testing.assert_allclose(table["goal"], table[columns].to_numpy() @ gamma, rtol=1e-6)
    assert influence_at(run, 1).shape == (200, 4)


def test_a_continued_run_goes_on_with_the_groups_that_it_saw(bundle, ended, same_outcome):
    run = ended("herd", ["place"], steps=3)
    continue_run(run, 6)
    execute(run)
    same_outcome(run, ended("herd", ["place"], steps=6))


def test_labels_of_groups_are_counted_where_attributes_were_read(bundle, ended):
    by_place, by_class = (protocol_of(ended("herd", seen, steps=2)) for seen in (["place"], []))
    assert (by_place.training, by_place.budget) == ("target", 400)
    assert by_place.text.startswith("groups seen: class × place; group labels: 200 of target")
    assert (by_class.training, by_class.labels) == ("none", {})
    # Another seed redraws the rows, and without a draw there is nothing that it could change.
    (unchanged,) = entries([ended("herd", [], "erm")])
    assert unchanged.every_seed


def test_noise_in_group_labels_is_in_the_groups_that_are_seen(bundle, compute):
    noise = Variation(seen_groups=("place",), group_noise=0.25)
    (noisy, _), (clean, test) = (
        load_problem(bundle, compute, variation=each)
        for each in (noise, Variation(seen_groups=("place",)))
    )
    for split, changed in (("weighted", 50), ("target", 50), ("val", 0)):
        mine, other = getattr(noisy, split), getattr(clean, split)
        assert int((mine.groups != other.groups).any(dim=1).sum()) == changed
    assert (clean.n_groups, test.groups.shape[1]) == (4, 6)
    assert clean.training_shares.shape == (4,)


def test_a_row_without_a_value_is_in_no_group_that_is_seen(bundle, herd):
    values = bundle.samples["place"].to_numpy(copy=True)
    values[::3] = ""
    bundle = herd("gaps", place=values)
    seen = seen_groups(bundle, Variation(seen_groups=("place",)))
    assert len(seen.names) == 4
    np.testing.assert_array_equal(seen.membership.any(axis=1), values != "")


@pytest.mark.parametrize(
    ("seen", "changed", "said"),
    [
        (["plce"], {}, "no attribute 'plce' to see groups by .did you mean 'place'?.*place, coat"),
        (["place"], {"place": np.arange(1600) / 7}, "'place' has 1,600 different values.*most 50"),
        (["place"], {"place": ["here", *["there"] * 1599]}, "target has no row of '(cow|goat), he"),
        ("place", {}, "seen_groups is 'place'"),
    ],
)
def test_groups_that_cannot_be_seen_are_refused_with_a_sentence(
    workspace, herd, seen, changed, said
):
    herd("odd", **changed)
    with pytest.raises(SettingError, match=said):
        create_run(workspace, "odd", "gsr", device="cpu", variation={"seen_groups": seen})
    assert not workspace.runs.exists()


def test_a_term_by_the_attribute_takes_the_groups_that_the_method_sees(herd, workspace, write):
    """By both places across the animals, or by what nobody said."""
    settings = {"steps": 2, "grouping": "attribute", "batch_size": 1024}

    def last_term(bundle, **variation):
        run = compute_run(workspace, bundle, "projection", variation=variation, **settings)
        history = run.metrics()
        return history.loc[history["metric"] == "group_term", "value"].iloc[-1], run.state

    herd()
    write(workspace, "unsaid", groups=[Group(name=f"{g}", definition="-") for g in range(4)])
    of_place, state = last_term("herd", seen_groups=("place",))
    assert state.status == "finished"
    of_both, _ = last_term("herd")
    assert of_both != of_place
    failed = compute_run(workspace, "unsaid", "projection", **settings).state
    assert failed.message.startswith("grouping is 'attribute', but the groups of this data are not")
