"""The gate: bounds by hand and by a second way, verdicts of constructed cases, JUnit read back."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, multinomial, norm

from gsr_core.comparing.gate import Checks, Result, check, read_checks
from gsr_core.comparing.junit import write_junit
from gsr_core.comparing.mcnemar import difference_bound
from gsr_core.curation.slices import name_slice
from gsr_core.data.bundle import open_bundle
from gsr_core.errors import ComparisonError, RunStateError, SettingError

Z = norm.ppf(0.95)


@pytest.mark.parametrize(
    ("n", "fixed", "broken"), [(50, 3, 9), (40, 0, 5), (80, 12, 4), (30, 0, 0)]
)
def test_at_the_bound_of_a_difference_the_score_test_is_at_its_level(n, fixed, broken):
    """With the nuisance rate found by maximising the likelihood in numbers."""
    bound = difference_bound(n, fixed, broken, Z)

    def unlikely(rate):
        chances = np.array([rate + bound, rate, 1 - 2 * rate - bound])
        counts = np.array([fixed, broken, n - fixed - broken])
        return -(counts * np.log(np.maximum(chances, 1e-300))).sum()

    ends = max(0.0, -bound), (1 - bound) / 2
    rate = minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-10}).x
    variance = n * (2 * rate + bound - bound**2)
    assert (fixed - broken - n * bound) / np.sqrt(variance) == pytest.approx(Z, rel=1e-4)
    assert bound < (fixed - broken) / n


def test_the_bound_of_a_difference_at_its_ends_and_in_order():
    # Nothing changed: the drop that n rows rule out, in closed form.
    assert difference_bound(200, 0, 0, Z) == pytest.approx(-(Z**2) / (200 + Z**2))
    assert difference_bound(10, 0, 10, Z) == -1
    assert difference_bound(10, 10, 0, Z) == pytest.approx((10 - Z**2) / (10 + Z**2))
    bounds = [difference_bound(60, 10, broken, Z) for broken in range(50)]
    assert np.all(np.diff(bounds) < 0)


def test_the_bound_of_a_difference_holds_as_often_as_it_says():
    """Over all outcomes of 25 rows, by their exact chances."""
    n, truth = 25, np.array([0.1, 0.2, 0.7])
    covered = total = 0.0
    for fixed in range(n + 1):
        for broken in range(n + 1 - fixed):
            chance = multinomial.pmf([fixed, broken, n - fixed - broken], n, truth)
            if chance < 1e-7:
                continue
            total += chance
            covered += chance * (difference_bound(n, fixed, broken, Z) <= -0.1)
    assert total > 0.999
    assert 0.93 < covered < 0.975


@pytest.fixture
def judged(done):
    """A function that checks constructed answers on the 40 test rows: ten in each group."""
    runs = {"run": done("erm"), "base": done("class_balanced")}
    bundle = runs["run"].bundle
    rows = bundle.rows_of["test"]
    member = bundle.membership[rows]

    def judged(right, before=None, **values):
        """Right rows of each group, of ten; those of the baseline the first ones, likewise."""

        def table(counts):
            answers = np.zeros(len(rows), dtype=bool)
            for g, count in enumerate(counts):
                answers[np.flatnonzero(member[:, g])[:count]] = True
            return pd.DataFrame({"row": rows, "correct": answers})

        tables = {runs["run"].run_id: table(right)}
        if before is not None:
            values["against"] = runs["base"].run_id
            tables[runs["base"].run_id] = table(before)
        checks = Checks.of({key.replace("_", "-"): value for key, value in values.items()})
        against = runs["base"] if before is not None else None
        return check(runs["run"], checks, against, read=lambda run, split: tables[run.run_id])

    return judged


def results(gate):
    return [str(line.result) for line in gate.lines]


def test_floors_pass_fail_or_have_too_few_rows(judged):
    # The accuracies at which so many right or more are seen once in twenty times: .741 and .493.
    gate = judged([10, 8, 10, 10], floor=0.7, min_rows=10)
    assert results(gate) == ["pass", "fail", "pass", "pass"]
    assert not gate.passed
    line = gate.lines[1]
    assert (line.name, line.rows, line.value) == ("cat, green", 10, 0.8)
    for line, right in zip(gate.lines, [10, 8, 10, 10], strict=True):
        assert binom.sf(right - 1, 10, line.bound) == pytest.approx(0.05)
    assert judged([10, 0, 10, 10], floor=0.7, min_rows=10).lines[1].bound == 0
    assert judged([10, 8, 10, 10], floor=0.49, min_rows=10).passed
    assert not judged([10, 8, 10, 10], floor=0.5, min_rows=10).passed
    # By the number of rows, and where not even a perfect group could pass.
    for values in ({"floor": 0.5, "min_rows": 11}, {"floor": 0.8, "min_rows": 1}):
        gate = judged([10, 10, 10, 3], **values)
        assert set(results(gate)) == {"too few rows"}
        assert not gate.passed
        assert judged([10, 10, 10, 3], allow_few=True, **values).passed
    assert "too small to certify" in gate.lines[0].reason
    # A group's own floor goes before that of all.
    groups = {"cat, green": 0.49}
    assert judged([10, 8, 10, 10], floor=0.7, min_rows=10, group=groups).passed
    assert len(judged([0, 8, 0, 0], min_rows=10, group=groups).lines) == 1


def test_largest_drops_are_judged_on_the_same_rows(judged):
    gate = judged([10, 10, 9, 5], before=[9, 10, 10, 10], max_drop=0.3, min_rows=10)
    assert results(gate) == ["pass", "pass", "fail", "fail"]
    assert [line.value for line in gate.lines] == pytest.approx([0.1, 0, -0.1, -0.5])
    bounds = [difference_bound(10, *each, Z) for each in ((1, 0), (0, 0), (0, 1), (0, 5))]
    assert [line.bound for line in gate.lines] == pytest.approx(bounds)
    # Ten unchanged rows rule out no drop below 21 %; where the baseline left room, they could.
    gate = judged([10, 10, 9, 5], before=[10, 10, 10, 1], max_drop=0.05, min_rows=10)
    assert results(gate) == ["too few rows", "too few rows", "too few rows", "pass"]
    both = judged([9, 9, 9, 9], before=[9, 9, 9, 9], max_drop=0.3, floor=0.5, min_rows=10)
    assert [line.check for line in both.lines] == ["floor", "max-drop"] * 4
    assert both.passed


def test_slices_have_floors_of_their_own(workspace, done):
    run = done("erm")
    bundle = open_bundle(workspace, "tiny")
    name_slice(workspace, bundle, "all = test", bundle.rows_of["test"])
    name_slice(workspace, bundle, "none of it", bundle.rows_of["val"])
    gate = check(run, Checks.of({"slice": {"all = test": "0.05", "none of it": 0.5}}))
    assert [(line.kind, line.rows) for line in gate.lines] == [("slice", 40), ("slice", 0)]
    assert results(gate) == ["pass", "too few rows"]
    record = gate.record()["checks"][1]
    assert (record["value"], record["bound"], record["result"]) == (None, None, "too few rows")
    with pytest.raises(SettingError, match="no slice 'nothing'"):
        check(run, Checks.of({"slice": {"nothing": 0.5}}))
    with pytest.raises(SettingError, match=r"no group 'cat, rde' .did you mean 'cat, red'"):
        check(run, Checks.of({"group": {"cat, rde": 0.5}}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "nothing is checked"),
        ({"floor": 80}, "floor is 80; input should be less than 1.*0.8 for 80 %"),
        ({"flor": 0.8}, "no setting 'flor' .did you mean 'floor'"),
        ({"floor": 0.8, "min-rows": 0}, "min-rows is 0"),
        ({"slice": {"night": "high"}}, "slice.night is 'high'"),
        ({"max-drop": 0.1}, "max-drop and against go together"),
        ({"floor": 0.1, "against": "x"}, "max-drop and against go together"),
    ],
)
def test_checks_that_make_no_sense_are_refused_in_a_sentence(values, said):
    with pytest.raises(SettingError, match=said):
        Checks.of(values)


def test_runs_that_cannot_be_checked_are_refused(make, done):
    checks = Checks.of({"max-drop": 0.1, "against": "base"})
    with pytest.raises(RunStateError, match="no head yet"):
        check(make("erm"), checks)
    run = done("erm")
    with pytest.raises(ComparisonError, match="held against itself"):
        check(run, checks, run)


def test_a_junit_file_says_the_same(judged, tmp_path):
    file = tmp_path / "gate.xml"
    values = {"floor": 0.7, "min_rows": 10, "group": {"dog, red": 0.95}}
    for allow_few, kind in ((False, "failure"), (True, "skipped")):
        gate = judged([10, 8, 10, 10], allow_few=allow_few, **values)
        write_junit(gate, file)
        suite = ElementTree.parse(file).getroot().find("testsuite")
        cases = suite.findall("testcase")
        assert [case.get("name") for case in cases] == [line.title for line in gate.lines]
        ended = [next(iter(case)).tag for case in cases]
        assert ended == ["system-out", "failure", kind, "system-out"]
        assert suite.get("tests") == "4"
        assert suite.get("failures") == str(ended.count("failure"))
        assert suite.get("skipped") == str(ended.count("skipped"))
        assert cases[1].find("failure").get("message") == gate.lines[1].reason
        assert cases[2].find(kind).get("type") == Result.FEW
    assert [each.name for each in tmp_path.iterdir() if "gate" in each.name] == ["gate.xml"]


def test_a_file_of_checks_is_toml(tmp_path):
    file = tmp_path / "checks.toml"
    file.write_text('floor = 0.8\nmin-rows = 25\n[slice]\n"night birds" = 0.75\n')
    checks = Checks.of(read_checks(file))
    assert (checks.floor, checks.min_rows, checks.slices) == (0.8, 25, {"night birds": 0.75})
    file.write_text("floor 0.8\n")
    with pytest.raises(SettingError, match=r"not a file of checks in TOML.*line 1"):
        read_checks(file)
