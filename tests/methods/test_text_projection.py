"""Projections of images and texts: their terms, their descent, and the head that is exact."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.nn.functional import normalize

from gsr_core.errors import SettingError
from gsr_core.methods.registry import make_method
from gsr_core.methods.text_projection import TextProjection, clip_term

PLAIN = ["a photo of a {}", "a picture of a {}", "a {}"]
"""The default templates."""


def steps_of(method, problem, count=None):
    return list(islice(method.iterate(problem), count or method.steps))


def unit_of(phrases, problem):
    return normalize(problem.words.embed(phrases).double(), dim=1)


def by_words(features, problem, image, text, classes=("a", "b")):
    """The class whose mean template is nearest to the normalised projection of each row."""
    means = [
        normalize(unit_of([each.format(name) for each in PLAIN], problem) @ text, dim=1).mean(dim=0)
        for name in classes
    ]
    return (normalize(features.double() @ image, dim=1) @ torch.stack(means).T).argmax(dim=1)


def contrast_of(unit, sharpness, group):
    """A contrast by its definition, one anchor after another; every row has a group."""
    losses = []
    for i in range(len(unit)):
        score = (unit @ unit[i] * sharpness).exp()
        same = (group == group[i]) & (torch.arange(len(unit)) != i)
        other = group != group[i]
        if same.any() and other.any():
            total = score[same].sum() + score[other].sum()
            losses.append(-(score[same] / total).log().mean())
    return torch.stack(losses).mean()


def clip_of(image, caption, sharpness):
    """L_CLIP by its definition, pair by pair."""
    score = (image @ caption.T * sharpness).exp()
    each = [
        -torch.log(score[i, i] / score[i].sum()) - torch.log(score[i, i] / score[:, i].sum())
        for i in range(len(image))
    ]
    return torch.stack(each).mean() / 2


def test_the_term_of_images_and_captions_is_that_of_a_loop_with_its_gradient():
    generator = torch.Generator().manual_seed(0)
    image, caption = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    image, caption = (normalize(each, dim=1).requires_grad_() for each in (image, caption))
    found, expected = clip_term(image, caption, 5.0).loss, clip_of(image, caption, 5.0)
    torch.testing.assert_close(found, expected)
    for one, two in zip(
        *(torch.autograd.grad(each, [image, caption]) for each in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_before_training_a_class_is_that_of_the_nearest_words(make_problem):
    problem, test = make_problem(n_classes=3)
    (first,) = steps_of(TextProjection(), problem, 1)
    plain = torch.eye(6, dtype=torch.float64)
    expected = by_words(test.features, problem, plain, plain, ("a", "b", "c"))
    assert torch.equal(first.head.logits(test.features.double()).argmax(dim=1), expected)
    assert first.note.startswith("The projections as they came;")


def test_the_head_predicts_what_the_trained_projections_do_and_lengths_mean_nothing(make_problem):
    problem, test = make_problem()
    last = steps_of(TextProjection(steps=4), problem)[-1]
    image, text = last.checkpoint["image"], last.checkpoint["text"]
    assert (image - torch.eye(6).to(image)).abs().max() > 0.01
    expected = by_words(test.features, problem, image, text)
    assert len(expected.unique()) == 2
    found = last.head.logits(test.features.double()).argmax(dim=1)
    assert torch.equal(found, expected)
    lengths = torch.linspace(0.1, 30, len(test)).double()[:, None]
    assert torch.equal(last.head.logits(test.features * lengths).argmax(dim=1), expected)
    # A row of the mean length has the softmax of the cosines over tau.
    seen = problem.weighted.features.double()
    middle = seen * ((seen @ image).norm(dim=1).mean() / (seen @ image).norm(dim=1))[:, None]
    means = [
        normalize(unit_of([each.format(name) for each in PLAIN], problem) @ text, dim=1).mean(dim=0)
        for name in ("a", "b")
    ]
    cosines = normalize(middle @ image, dim=1) @ torch.stack(means).T
    torch.testing.assert_close(last.head.logits(middle), cosines / last.terms["temperature"])


def test_an_update_is_a_step_down_the_gradient_of_all_terms(make_problem):
    """All rows in one batch and one caption a class, so that no draw says anything."""
    problem, _ = make_problem(n=30)
    weights = {
        "clip_weight": 0.5,
        "class_weight": 0.7,
        "group_weight": 1.3,
        "text_class_weight": 0.9,
        "text_group_weight": 1.1,
    }
    method = TextProjection(
        steps=2,
        batch_size=64,
        lr=0.05,
        weight_decay=0.2,
        temperature=0.2,
        templates="a {class}",
        **weights,
    )
    first, second = steps_of(method, problem)
    phrases, labels, groups = ["a a", "a b"], [0, 1], ["a", "b"]
    for label, name in enumerate("ab"):
        for value in "01":
            phrases += [f"a photo of a {name} on {value}", f"a {name} on {value}"]
            labels += [label] * 2
            groups += [name + value] * 2
    number = torch.tensor([sorted(set(groups)).index(each) for each in groups])
    image, text = (first.checkpoint[name].clone().requires_grad_() for name in ("image", "text"))
    log_sharpness = torch.tensor(5.0, dtype=torch.float64).log().requires_grad_()
    sharpness = log_sharpness.exp()
    rows = problem.weighted
    z = normalize(normalize(rows.features.double(), dim=1) @ image, dim=1)
    t = normalize(unit_of(phrases, problem) @ text, dim=1)
    index = rows.groups.double().argmax(dim=1)
    expected = {
        "clip_term": clip_of(z, t[rows.labels], sharpness),
        "class_term": contrast_of(z, sharpness, rows.labels),
        "group_term": contrast_of(z, sharpness, index),
        "text_class_term": contrast_of(t, sharpness, torch.tensor(labels)),
        "text_group_term": contrast_of(t, sharpness, number),
    }
    for name, value in expected.items():
        assert second.terms[name] == pytest.approx(value.item()), name
    loss = sum(
        weight * term for weight, term in zip(weights.values(), expected.values(), strict=True)
    )
    assert second.objective == pytest.approx(loss.item())
    slopes = torch.autograd.grad(loss, [image, text, log_sharpness])
    for name, before, slope in zip(("image", "text"), (image, text), slopes, strict=False):
        moved = before.detach() - 0.05 * (slope + 0.2 * before.detach())
        torch.testing.assert_close(second.checkpoint[name], moved)
    sharper = log_sharpness.item() - 0.05 * slopes[2].item()
    assert second.checkpoint["log_sharpness"].item() == pytest.approx(sharper)
    # One template of a class is alone in its group, without an attribute.
    assert second.terms["text_group_term_skipped"] == pytest.approx(2 / 10)


def test_other_words_and_the_attribute_alone_change_what_is_compared(make_problem):
    problem, _ = make_problem()

    def terms(**settings):
        return steps_of(TextProjection(**settings), problem, 1)[0].terms

    plain = terms()
    named = terms(class_words="a;b")
    assert named == plain
    assert terms(class_words="b;a")["clip_term"] != plain["clip_term"]
    by_attribute = terms(grouping="attribute")
    assert by_attribute["text_group_term"] != plain["text_group_term"]
    assert by_attribute["text_class_term"] == plain["text_class_term"]


def test_group_labels_of_rows_are_read_by_the_term_of_their_groups_alone(make_problem):
    problem, _ = make_problem()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    rows = replace(problem.weighted, groups=problem.weighted.groups[order])
    shuffled = replace(problem, weighted=rows)
    for weight in (0.0, 1.0):
        method = TextProjection(steps=3, group_weight=weight)
        one, two = (steps_of(method, each)[-1].head.weight for each in (problem, shuffled))
        assert torch.equal(one, two) == (weight == 0)
        assert ("weighted" in method.labels_used) == (weight > 0)
        assert ("group_term" in steps_of(method, problem, 1)[0].terms) == (weight > 0)


def test_the_networks_own_temperature_is_the_start_and_stays_in_bounds(make_problem):
    problem, _ = make_problem()
    for known, expected in ((None, 0.01), (0.05, 0.05), (1e-4, 0.01)):
        words = replace(problem.words, temperature=known)
        (first,) = steps_of(TextProjection(), replace(problem, words=words), 1)
        assert first.terms["temperature"] == pytest.approx(expected)
    assert steps_of(TextProjection(temperature=0.3), problem, 1)[0].terms[
        "temperature"
    ] == pytest.approx(0.3)


def test_a_continued_run_is_one_long_run(make_problem):
    problem, _ = make_problem()
    method = TextProjection(steps=4, batch_size=16)
    whole = steps_of(method, problem)
    rest = list(islice(method.iterate(problem, whole[1].checkpoint), 2))
    for one, two in zip(rest, whole[2:], strict=True):
        assert torch.equal(one.head.weight, two.head.weight)
        assert one.terms == two.terms


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict.fromkeys(TextProjection().weights(), 0.0), "are all 0, so that nothing trains"),
        ({"templates": "a photo; a {class}"}, "templates has 'a photo', which lacks {class}; "),
        ({"templates": " ; "}, "give one with {class} at least"),
        ({"group_templates": "a {class} on it"}, "which lacks {attribute}; write it where"),
        ({"temperature": 0.001}, "temperature is 0.001; allowed are 0.01 to 1, and 0 for"),
        ({"class_words": "cat"}, "class_words names 1 of 2 classes, which are a; b; give one for"),
        (
            {"group_templates": "a {class} on {attribute}"},
            "there are 2 values of an attribute and 1",
        ),
        (
            {"templates": "a {class}", "group_templates": "", "text_group_weight": 0},
            "text_class_weight is 1, but each class has one template only",
        ),
    ],
)
def test_words_that_do_not_go_together_are_refused(make_problem, settings, sentence):
    settings = {key.replace("_term", "_weight"): value for key, value in settings.items()}
    method = make_method("text_projection", settings)
    with pytest.raises(SettingError) as refused:
        next(method.iterate(make_problem()[0]))
    assert sentence in str(refused.value)


def test_without_words_or_with_those_of_another_space_it_says_what_is_missing(make_problem):
    problem, _ = make_problem()
    with pytest.raises(SettingError, match="text_projection reads words, which only a run of"):
        next(TextProjection().iterate(replace(problem, words=None)))
    other = replace(problem.words, embed=lambda phrases: torch.ones(len(phrases), 7))
    with pytest.raises(SettingError, match="phrases become 7 numbers, but there are 6 features"):
        next(TextProjection().iterate(replace(problem, words=other)))
