import numpy as np
import pytest

from gsr_core.data.bundle import open_bundle
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.maps.config import map_config
from gsr_core.maps.graphs import compute_graph
from gsr_core.maps.heads import map_head
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.influence import influence_at
from gsr_core.views import loading
from gsr_core.views.loading import load_neighbours, load_samples
from gsr_core.workspace import Workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace with a bundle of 60 rows a split, four groups."""
    place = Workspace.at(tmp_path_factory.mktemp("workspace"))
    place.root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    group = np.tile([0, 1, 2, 3], 60)
    split = np.repeat(["heldout", "target", "val", "test"], 60)
    features = rng.normal(size=(240, 4)) + group[:, None]
    file = place.root / "small.npz"
    np.savez(file, features=features, y=group // 2, group=group, split=split)
    import_data(place, make_plan(name="small", reader="npz", settings={"path": str(file)}))
    return place


@pytest.fixture(scope="module")
def run(place):
    return compute_run(place, "small", "erm", device="cpu")


@pytest.fixture
def searched(place, monkeypatch):
    """How many neighbours were found by comparing with every row."""
    monkeypatch.setenv("GSR_WORKSPACE", str(place.root))
    found = []

    def counted(space, rows, k):
        found.append(k)
        return nearest(space, rows, k)

    nearest = loading.nearest
    monkeypatch.setattr(loading, "nearest", counted)
    return found


@pytest.mark.parametrize("space", ["features", "gradients"])
def test_neighbours_are_the_same_with_and_without_a_graph(place, run, searched, space):
    bundle = open_bundle(place, "small")
    looked_at = [0, 5, 59]
    before = [load_neighbours(run, "val", space, index, 8) for index in looked_at]
    assert searched == [8, 8, 8]

    head = map_head(bundle, run)
    compute_graph(place, bundle, head, map_config(bundle, head, space=space, splits=["val"]))
    after = [load_neighbours(run, "val", space, index, 8) for index in looked_at]
    assert len(searched) == 3
    for (near, distance), (other, other_distance) in zip(before, after, strict=True):
        np.testing.assert_array_equal(near, other)
        np.testing.assert_allclose(distance, other_distance, atol=1e-6)

    # More than the graph has of each.
    assert len(load_neighbours(run, "val", space, 0, 40)[0]) == 40
    assert searched[3:] == [40]


def test_a_graph_of_other_rows_than_the_runs_is_not_taken(place, searched):
    redrawn = compute_run(place, "small", "erm", device="cpu", seed=1)
    bundle = open_bundle(place, "small")
    config = map_config(bundle, None, space="features", splits=["val"])
    compute_graph(place, bundle, None, config)
    near, _ = load_neighbours(redrawn, "val", "features", 3, 5)
    assert searched == [5]
    assert (near < len(redrawn.rows_of("val", bundle))).all()


def test_the_table_of_samples_has_the_influence_once_a_terminal_computed_it(place, monkeypatch):
    monkeypatch.setenv("GSR_WORKSPACE", str(place.root))
    run = compute_run(place, "small", "gsr", device="cpu", steps=2)
    run.influence_file(run.state.best_step).unlink()
    assert "goal" not in load_samples(run, run.values_split)
    influence_at(run)
    assert "goal" in load_samples(run, run.values_split)
