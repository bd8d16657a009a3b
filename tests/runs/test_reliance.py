"""What heads of runs lean on: the planted shortcut, and the same choice for all runs."""

import numpy as np
import pytest

from gsr_core.errors import RunStateError
from gsr_core.reliance import measure_reliance
from gsr_core.runs.reliance import reliance_table


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
    for run, row in zip((base, repair), table.to_dict("records"), strict=True):
        two = bundle.manifest.classes.index(first["two"])
        weight, bias = run.head()
        direction = (weight[two] - weight[1 - two]).astype(np.float64)
        expected = measure_reliance(
            bundle.features, rows, bundle.y[rows] == two, colour == "red", direction,
            bias=float(bias[two] - bias[1 - two]),
        )  # fmt: skip
        assert row["lean"] == pytest.approx(expected.lean)
        assert row["worst_error"] == pytest.approx(expected.worst_error)
    with pytest.raises(RunStateError, match="no head yet"):
        reliance_table([base, make("erm")])


def test_a_bundle_without_attributes_has_nothing_to_lean_on(workspace, write, tmp_path):
    from gsr_core.runs.execute import run
    from gsr_core.workspace import Workspace

    place = Workspace.at(tmp_path / "plain")
    bundle = write(place, "plain")
    write(place, "bare", samples=bundle.samples.drop(columns="colour"))
    assert reliance_table([run(place, "bare", "erm", device="cpu")]).empty
