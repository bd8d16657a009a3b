"""What heads of runs lean on: the planted shortcut, and the same choice for all runs."""

import numpy as np
import pytest

from gsr_core.errors import RunStateError
from gsr_core.reliance import leanings, measure_reliance
from gsr_core.runs.execute import run
from gsr_core.runs.reliance import reliance_table
from gsr_core.workspace import Workspace


def test_heads_of_runs_are_measured_on_the_same_direction(workspace, done, make):
    base, repair = done("erm"), done("class_balanced")
    bundle = base.bundle
    table = reliance_table([base, repair])
    assert table["run"].tolist() == [base.run_id, repair.run_id]
    assert set(table["attribute"]) == {"colour"}
    first = table.iloc[0]
    assert (first["value"], {first["one"], first["two"]}) == ("red", {"cat", "dog"})
    assert first["lean"] > 0
    rows = bundle.rows_of["test"]
    colour = bundle.column("colour").to_numpy(zero_copy_only=False)[rows]
    for one, row in zip((base, repair), table.to_dict("records"), strict=True):
        two = bundle.manifest.classes.index(first["two"])
        weight, bias = one.head()
        direction = (weight[two] - weight[1 - two]).astype(np.float64)
        expected = measure_reliance(
            bundle.features, rows, bundle.y[rows] == two, colour == "red", direction,
            bias=float(bias[two] - bias[1 - two]),
        )  # fmt: skip
        assert row["lean"] == pytest.approx(expected.lean)
        assert row["worst_error"] == pytest.approx(expected.worst_error)
    with pytest.raises(RunStateError, match="no head yet"):
        reliance_table([base, make("erm")])


def test_attributes_of_the_largest_lean_come_first_and_of_several_values_the_largest(
    write, tmp_path
):
    place = Workspace.at(tmp_path / "two")
    bundle = write(place, "plain")
    samples, block = bundle.samples, np.arange(len(bundle)) // 4
    # 80 rows of test, so that each cell has ten: the class itself in three of four rows, and a
    # place that has nothing to do with it.
    samples["split"] = samples["split"].replace("train", "test")
    samples["light"] = np.array(["dim", "bright"])[bundle.y ^ (block % 4 == 0)]
    samples["place"] = np.array(["sea", "land", "air"])[block % 3]
    bundle = write(place, "more", samples=samples)
    done = [run(place, "more", "erm", device="cpu"), run(place, "more", "llr", device="cpu")]
    table = reliance_table(done)
    assert set(table["attribute"]) == {"colour", "light", "place"}
    tops = table["lean"].abs().groupby(table["attribute"], sort=False).max()
    assert tops.is_monotonic_decreasing
    assert len(table) == 6
    assert (table["lean"].iloc[::2] >= 0).all()
    first = reliance_table(done, most=1)
    assert first["lean"].tolist() == table["lean"].tolist()[:2]
    rows = np.sort(bundle.rows_of["test"])
    codes = samples["place"][rows].map({"air": 0, "land": 1, "sea": 2}).to_numpy()
    each = [leanings(bundle.features, rows, bundle.y[rows], codes, one.head()[0]) for one in done]
    largest = max(each, key=lambda found: found["lean"].abs().max())
    value = largest.loc[largest["lean"].abs().idxmax(), "value"]
    shown = table[table["attribute"] == "place"]["value"]
    assert set(shown) == {["air", "land", "sea"][int(value)]}


def test_a_bundle_without_attributes_has_nothing_to_lean_on(workspace, write, tmp_path):
    place = Workspace.at(tmp_path / "plain")
    bundle = write(place, "plain")
    write(place, "bare", samples=bundle.samples.drop(columns="colour"))
    assert reliance_table([run(place, "bare", "erm", device="cpu")]).empty
