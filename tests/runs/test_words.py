"""Runs of a method that reads words, on a bundle whose network takes phrases and on others."""

from types import SimpleNamespace

import pytest
import torch

from gsr_core.data.bundle import open_bundle
from gsr_core.data.seen import seen_groups
from gsr_core.data.variation import Variation
from gsr_core.errors import SettingError
from gsr_core.ingest import text_side
from gsr_core.runs import words


@pytest.fixture
def phrases_taken(monkeypatch):
    """The network of every bundle takes phrases: "cat" and "dog" are ends of feature 0."""

    def embed(phrases):
        sign = torch.tensor([1.0 if "dog" in phrase else -1.0 for phrase in phrases])
        colour = torch.tensor([("green" in phrase) - 0.5 for phrase in phrases])
        return torch.stack([sign, colour, *torch.zeros(3, len(phrases))], dim=1)

    side = SimpleNamespace(embed=embed, temperature=0.07)
    monkeypatch.setattr(text_side, "check_phrases", lambda bundle: None)
    monkeypatch.setattr(words, "text_side_of", lambda bundle: side)


def test_the_words_are_the_names_of_classes_and_of_what_groups_are_beside_them(
    workspace, phrases_taken
):
    bundle = open_bundle(workspace, "tiny")
    found = words.words_of(bundle, seen_groups(bundle))
    assert found.classes == ["cat", "dog"]
    assert found.attributes == ["red", "green"]
    assert found.temperature == 0.07
    of_classes = seen_groups(bundle, Variation(seen_groups=()))
    assert words.words_of(bundle, of_classes).attributes == []


@pytest.mark.usefixtures("phrases_taken")
def test_a_run_by_words_leaves_what_every_run_leaves(done):
    run = done("text_projection", steps=3)
    assert run.state.status == "finished"
    assert run.head()[0].shape == (2, 5)
    history = run.metrics()
    terms = history[history["metric"] == "text_group_term"]
    assert terms["step"].tolist() == [1, 2, 3]
    # What the words say is right of most samples, whatever was trained.
    first = history[(history["step"] == 1) & (history["split"] == "test")]
    assert first.set_index("metric").loc["mean_accuracy", "value"] > 0.7


def test_a_network_that_takes_no_phrases_is_refused_before_the_run_is_there(make, workspace):
    with pytest.raises(SettingError, match="bundle 'tiny' does not say how it was imported"):
        make("text_projection")
    assert not list(workspace.runs.glob("text_projection*"))
