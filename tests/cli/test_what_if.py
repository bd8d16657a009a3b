"""`gsr whatif`."""

import json
from functools import partial

import numpy as np
import pytest

from gsr_core.curation.slices import name_slice
from gsr_core.data.bundle import open_bundle
from gsr_core.runs.store import open_run
from tests.tiny import *  # noqa: F403


@pytest.fixture
def gsr(workspace, call):
    return partial(call, workspace)


@pytest.fixture
def run(done):
    return done("gsr", steps=2)


def refused(outcome, *said: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1
    for words in said:
        assert words in outcome.err


def test_a_kept_refit_says_what_it_did_and_compares(gsr, run, workspace):
    bundle = open_bundle(workspace, "tiny")
    rows = bundle.rows_of["heldout"][:4]
    name_slice(workspace, bundle, "four", rows)
    chosen = ("--times", 2, "--slice", "four")
    outcome = gsr("whatif", run.run_id, *chosen, "--random", 10, "--keep", "--json")
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    assert (said["rows"], said["edit"]) == (4, "4 rows (slice four) × 2")
    weights = run.weights().set_index("row")["weight"]
    assert said["weight"] == pytest.approx(weights[rows].sum(), rel=1e-6)
    kept = open_run(workspace, said["kept"])
    after = kept.weights().set_index("row")["weight"]
    ratio = after / weights
    np.testing.assert_allclose(ratio[rows], 2 * ratio[bundle.rows_of["heldout"][9]], rtol=1e-6)
    for row in said["groups"]:
        own = bundle.membership[bundle.rows_of["test"], bundle.group_names.index(row["group"])]
        assert row["samples"] == own.sum()
        assert 2 / 11 <= row["chance_loss"] <= 1
    assert [row["group"] for row in said["validity"]] == bundle.group_names
    compared = gsr("compare", run.run_id, kept.run_id)
    assert compared.code == 0
    assert "4 rows (slice four) × 2" in compared.out
    # The same from its own settings: the line that pages show of the run.
    text = gsr("whatif", run.run_id, *chosen, "--split", "val").out
    assert "group of val" in text
    assert "4 of 4 rows change" in text


def test_mistakes_are_one_sentence_with_what_to_do(gsr, run):
    name = run.run_id
    for words, said in (
        (("--slice", "x"), "0 edits were asked for"),
        (("--drop", "--times", 2, "--heaviest", 3), "2 edits were asked for"),
        (("--drop",), "0 choices of rows were given"),
        (("--drop", "--flagged", "--heaviest", 3), "2 choices of rows were given"),
        (("--drop", "--slice", "x"), "has no slice 'x'"),
        (("--drop", "--flagged"), "there is no row to edit (flagged)"),
        (("--drop", "--cluster", "x"), "is not CLUSTERING/NAME"),
        (("--drop", "--rows", "5-999"), "row 999 is not in the bundle"),
        (("--relabel", "bird", "--heaviest", 3), "'bird' is not a class"),
        (("--times", -1, "--heaviest", 3), "the factor of the weights is -1"),
        (("--drop", "--heaviest", 3, "--split", "train"), "choose test or val"),
        (("--drop", "--heaviest", 3, "--random", 2), "give a number from 10 on"),
    ):
        refused(gsr("whatif", name, *words), said)
