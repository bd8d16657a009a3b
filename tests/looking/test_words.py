"""Words left out in turn: a text stays what it is, and a sum of words gives the words."""

import numpy as np
import pytest

from gsr_core.looking.words import pieces_of, word_effects

WORTH = {"good": (2.0, -1.0), "bad": (-3.0, 0.5), "film": (0.25, 0.0)}


def bag(items):
    return np.array([sum(np.array(WORTH[w]) for t in item for w in t.split()) for item in items])


@pytest.mark.parametrize("text", ["a good  film", "  one\n\ntwo ", "word", " ", "", "ä,b c\tд"])
def test_pieces_are_the_text_again(text):
    assert "".join(pieces_of(text)) == text
    assert len(pieces_of(text)) == max(len(text.split()), 1)
    assert "".join(pieces_of(text, 2)) == text
    assert len(pieces_of(text, 2)) <= 2


def test_a_score_that_is_a_sum_over_words_gives_each_word_its_part():
    (pieces,), (effects,) = word_effects(["bad good film good"], bag)
    assert [each.strip() for each in pieces] == ["bad", "good", "film", "good"]
    np.testing.assert_allclose(effects.T, [WORTH[each.strip()] for each in pieces])


def test_each_text_of_a_pair_has_its_own_words():
    pieces, effects = word_effects(["good film", "bad film good"], bag)
    assert [len(each) for each in pieces] == [2, 3]
    for parts, found in zip(pieces, effects, strict=True):
        np.testing.assert_allclose(found.T, [WORTH[each.strip()] for each in parts])


def test_what_words_say_only_together_shows_at_both():
    def both(items):
        return np.array([[float({"good", "film"} <= set(" ".join(i).split()))] for i in items])

    _, (effects,) = word_effects(["good bad film"], both)
    assert effects.tolist() == [[1, 0, 1]]
