"""The regression radar: what it looks at, and that it finds planted harm and only that."""

import numpy as np
import pandas as pd
import pytest

from gsr_core.clusterings.compute import compute_clustering
from gsr_core.clusterings.describe import cluster_subsets
from gsr_core.clusterings.request import request_clustering
from gsr_core.comparing.mcnemar import holm, mcnemar
from gsr_core.comparing.radar import judge_subsets, radar
from gsr_core.curation.slices import name_slice
from gsr_core.curation.subsets import Subset, crossings, distinct, group_subsets, slice_subsets
from gsr_core.data.bundle import open_bundle
from gsr_core.errors import ComparisonError, SettingError


def table(rows, correct):
    return pd.DataFrame({"row": rows, "correct": correct})


@pytest.fixture(scope="module")
def crossed(tmp_path_factory, write):
    """Rows by class, colour, a second attribute with gaps, and one with too many values."""
    from gsr_core.workspace import Workspace

    place = Workspace.at(tmp_path_factory.mktemp("crossed"))
    plain = write(place, "plain")
    samples = plain.samples
    n = len(samples)
    rng = np.random.default_rng(1)
    samples["place"] = rng.choice(["indoors", "outdoors", None], n)
    samples["camera"] = [f"camera {row}" for row in range(n)]
    return place, write(place, "crossed", samples=samples)


def test_crossings_are_all_combinations_of_values_with_enough_rows(crossed):
    _, bundle = crossed
    rows = bundle.rows_of["test"]
    found = {each.name: each.rows for each in crossings(bundle, rows, min_rows=5)}
    frame = bundle.samples.loc[rows].assign(**{"class": bundle.y[rows]})
    frame["class"] = frame["class"].map(dict(enumerate(bundle.manifest.classes)))
    expected = {}
    for names in (
        ["class"], ["colour"], ["place"], ["class", "colour"], ["class", "place"],
        ["colour", "place"], ["class", "colour", "place"],
    ):  # fmt: skip
        for values, part in frame.groupby(names, sort=False):
            if len(part) >= 5:
                title = " · ".join(f"{a}={b}" for a, b in zip(names, values, strict=True))
                expected[title] = part.index.to_numpy()
    assert found.keys() == expected.keys()
    for name, inside in found.items():
        np.testing.assert_array_equal(inside, expected[name])
    assert len(list(crossings(bundle, rows, depth=1, min_rows=5))) == 6
    with pytest.raises(SettingError, match="depth is 4; allowed are 1 to 3"):
        list(crossings(bundle, rows, depth=4))


def test_of_subsets_with_the_same_rows_the_first_stays(crossed):
    _, bundle = crossed
    rows = bundle.rows_of["test"]
    every = [*group_subsets(bundle, rows), *crossings(bundle, rows, depth=2, min_rows=1)]
    kept = distinct(every)
    # The groups are the cells of class and colour.
    assert {each.name for each in every} - {each.name for each in kept} == {
        f"class={name.split(', ')[0]} · colour={name.split(', ')[1]}" for name in bundle.group_names
    }


def test_harm_planted_in_a_crossing_is_first_and_untouched_rows_stay_silent():
    rng = np.random.default_rng(0)
    rows = np.arange(400) + 7
    before = rng.random(400) < 0.8
    hit = np.arange(400) % 8 == 3
    after = before & ~hit
    gained = (np.arange(400) % 8 == 5) & ~before
    after |= gained
    subsets = [Subset("crossing", str(k), rows[np.arange(400) % 8 == k]) for k in range(8)]
    found = judge_subsets(table(rows, before), table(rows, after), subsets)
    first, last = found.table.iloc[0], found.table.iloc[-1]
    assert (first["name"], first["verdict"]) == ("3", "worse")
    assert (first["broken"], first["fixed"]) == (before[hit].sum(), 0)
    assert (first["base"], first["repair"]) == (before[hit].mean(), 0)
    assert (last["name"], last["fixed"]) == ("5", gained.sum())
    assert set(found.table["verdict"][1:-1]) == {"too few changed"}
    np.testing.assert_array_equal(found.subsets[0].rows, rows[hit])
    # Each p is that of its counts, and the correction is over all that were looked at.
    raw = mcnemar(found.table["broken"].to_numpy(), found.table["fixed"].to_numpy())
    np.testing.assert_array_equal(found.table["p"], raw)
    np.testing.assert_array_equal(found.table["p_holm"], holm(raw))
    assert (found.fixed, found.broken) == (gained.sum(), before[hit].sum())


def test_the_other_way_round_and_in_another_order_it_says_the_opposite():
    rng = np.random.default_rng(3)
    rows = np.arange(300)
    one, two = rng.random((2, 300)) < 0.7
    subsets = [Subset("slice", f"{k}", np.flatnonzero(rng.random(300) < 0.3)) for k in range(6)]
    there = judge_subsets(table(rows, one), table(rows, two), subsets).table.set_index("name")
    order = rng.permutation(300)
    tables = (table(rows[order], each[order]) for each in (two, one))
    back = judge_subsets(*tables, subsets[::-1]).table.set_index("name").loc[there.index]
    np.testing.assert_array_equal(there["fixed"], back["broken"])
    np.testing.assert_array_equal(there["p_holm"], back["p_holm"])
    np.testing.assert_allclose(there["base"], back["repair"])
    assert there["net"].tolist() == (-back["net"]).tolist()


def test_without_a_true_difference_it_seldom_cries():
    """Over draws of two equal heads, at most about 5 % have any verdict, subsets overlapping."""
    rng, cried = np.random.default_rng(5), 0
    rows = np.arange(240)
    codes = rng.integers(2, size=(4, 240))
    subsets = [Subset("crossing", f"{k}{v}", rows[codes[k] == v]) for k in range(4) for v in (0, 1)]
    for _ in range(60):
        one, two = rng.random((2, 240)) < 0.8
        verdicts = judge_subsets(table(rows, one), table(rows, two), subsets).table["verdict"]
        cried += verdicts.isin(["better", "worse"]).any()
    assert cried <= 8  # 5 % of 60, and three standard errors


def test_groups_slices_clusters_and_crossings_of_runs(workspace, done):
    bundle = open_bundle(workspace, "tiny")
    base, repair = done("erm"), done("class_balanced")
    rows = bundle.rows_of["test"]
    name_slice(workspace, bundle, "few", rows[:4])
    name_slice(workspace, bundle, "elsewhere", bundle.rows_of["val"])
    request = request_clustering(workspace, bundle, "kmeans", {"clusters": 3})
    clustering = compute_clustering(workspace, request, device="cpu")
    clusters = cluster_subsets([clustering], rows)
    assert sum(len(each.rows) for each in clusters) == len(rows)
    found = radar(base, repair, clusters, min_rows=10)
    kinds = found.table.groupby("kind").size().to_dict()
    assert kinds["group"] == 4
    assert kinds["slice"] == 1
    assert 0 < kinds["cluster"] <= len(clusters)
    assert kinds["value"] == 4  # cat, dog, red, green; the pairs are the groups
    assert found.record(2)["looked_at"] == len(found.table)
    assert len(found.record(2)["subsets"]) == 2
    assert slice_subsets([], rows) == []


def test_runs_that_cannot_be_held_together_are_refused(workspace, write, done):
    base = done("erm")
    with pytest.raises(ComparisonError, match="name two different runs"):
        radar(base, base)
    with pytest.raises(SettingError, match="min_rows is 0"):
        radar(base, done("class_balanced"), min_rows=0)
    rows = np.arange(3)
    with pytest.raises(ComparisonError, match="no subset"):
        judge_subsets(table(rows, rows > 0), table(rows, rows > 1), [])
    with pytest.raises(ComparisonError, match="not scored on the same"):
        judge_subsets(table(rows, rows > 0), table(rows + 1, rows > 1), [])
