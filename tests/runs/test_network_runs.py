"""Runs that train the whole network behind a bundle: what they leave, refuse and go on from."""

import json
import runpy
import shutil
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import gsr_core.curvature.cost
import gsr_core.curvature.engine
import gsr_core.runs.network
from gsr_core.clusterings.request import request_clustering
from gsr_core.compute import pick
from gsr_core.data.bundle import open_bundle
from gsr_core.errors import BundleError, RunStateError, SettingError
from gsr_core.features.backbones import load_backbone
from gsr_core.features.extract import extract
from gsr_core.features.merged import TOLERANCE
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan, plan_of
from gsr_core.ingest.reopen import check_inputs, inputs_of, network_of, training_of
from gsr_core.maps.compute import compute_map
from gsr_core.maps.config import map_config
from gsr_core.maps.heads import map_head, map_profile
from gsr_core.methods.registry import make_method
from gsr_core.progress import Status
from gsr_core.runs.execute import continue_run, execute, run
from gsr_core.runs.expected import predict
from gsr_core.runs.export import export_run
from gsr_core.runs.influence import influence_at
from gsr_core.runs.merge import merge_run
from gsr_core.runs.new_bundle import bundle_of_run
from gsr_core.runs.protocol import protocol_of
from gsr_core.runs.samples import INFLUENCE, sample_table
from gsr_core.runs.store import create_run, list_runs, open_run
from gsr_core.workspace import Workspace

BUNDLE = "birds"
CPU = torch.device("cpu")
ROOT = Path(gsr_core.__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace with a bundle of image files, whose network was trained at the import."""
    folder = tmp_path_factory.mktemp("birds")
    make_birds = runpy.run_path(str(ROOT / "examples" / "make_birds.py"))["make_birds"]
    make_birds(folder, 160, size=32)
    training = {"optimiser": "adam", "lr": 0.01, "epochs": 2, "batch_size": 16, "workers": 0}
    plan = make_plan(
        name=BUNDLE,
        reader="waterbirds",
        settings={"path": str(folder)},
        roles={"split": {"heldout": 0.3}},
        backbone={"name": "simconv1"},
        training={"preset": "quick", "settings": training},
        extraction={"device": "cpu", "workers": 0},
    )
    workspace = Workspace(tmp_path_factory.mktemp("networks"))
    import_data(workspace, plan)
    return workspace


@pytest.fixture(scope="module")
def trained(place):
    return run(place, BUNDLE, "network_rwg", device="cpu", steps=2)


def edited(place, name, change):
    """A copy of the bundle whose manifest was changed."""
    target = place.bundles / name
    shutil.copytree(place.bundles / BUNDLE, target)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["name"] = name
    change(manifest)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return open_bundle(place, name)


def test_the_inputs_of_a_bundle_give_its_features(place):
    bundle = open_bundle(place, BUNDLE)
    inputs = inputs_of(bundle)
    check_inputs(bundle, inputs, CPU)
    assert len(inputs) == len(bundle)
    with pytest.raises(BundleError, match="no longer give the stored features"):
        check_inputs(bundle, inputs.take(np.arange(len(bundle))[::-1]), CPU)
    starts = {name: network_of(bundle, name, 0) for name in ("initial", "trained", "random")}
    weights = {name: each.module.state_dict() for name, each in starts.items()}
    # This network began with random weights.
    assert all(torch.equal(v, weights["random"][k]) for k, v in weights["initial"].items())
    head = weights["trained"][starts["trained"].head_name + ".weight"]
    np.testing.assert_array_equal(head.numpy(), bundle.head[0])
    assert training_of(bundle).epochs == 2


def test_a_run_leaves_the_network_and_what_it_makes_of_every_row(place, trained):
    bundle = open_bundle(place, BUNDLE)
    assert trained.state.status is Status.FINISHED, trained.state.message
    assert trained.values_split == "train"
    backbone = load_backbone("simconv1", trained.path / "network.safetensors")
    features = extract(backbone, inputs_of(bundle), device=CPU, workers=0).features
    np.testing.assert_allclose(trained.seen(bundle).features, features, rtol=1e-4, atol=1e-5)
    weight, bias = trained.head()
    np.testing.assert_array_equal(backbone.head[0], weight)
    table = sample_table(trained, "test", bundle)
    rows = table["row"].to_numpy()
    np.testing.assert_array_equal(
        table["prediction"], (features[rows] @ weight.T + bias).argmax(axis=1)
    )
    assert not np.allclose(trained.seen(bundle).features, bundle.features)
    history = trained.metrics()
    kept = history[history["step"] == trained.state.best_step]
    of_test = kept[(kept["split"] == "test") & (kept["metric"] == "mean_accuracy")]
    assert float(of_test["value"].iloc[0]) == pytest.approx(table["correct"].mean())
    heavy = sample_table(trained, "train", bundle)
    means = heavy.groupby("group")["weight"].sum()
    np.testing.assert_allclose(means, len(heavy) / len(means))
    assert not list(trained.path.glob("extraction*"))


def test_maps_are_of_the_features_that_were_trained(place, trained):
    bundle = open_bundle(place, BUNDLE)
    seen, head = trained.seen(bundle), map_head(trained.seen(bundle), trained)
    own = map_config(bundle, None, space="features", splits=["test"])
    other = map_config(seen, head, space="features", splits=["test"])
    assert own.digest != other.digest
    places = compute_map(place, seen, head, other)
    expected = compute_map(place, bundle, None, own)
    np.testing.assert_array_equal(places["row"], expected["row"])
    assert not np.allclose(places[["x", "y"]], expected[["x", "y"]])
    with pytest.raises(SettingError, match="trained the network anew; take head 'run'"):
        map_head(seen, trained, "refit")
    with pytest.raises(SettingError, match="clusters are of the bundle's own features"):
        request_clustering(place, bundle, "grasp", {"reference": "backbone"}, run=trained)


def test_a_bundle_of_its_features_takes_heads(place, trained):
    bundle = bundle_of_run(trained, "birds-rwg")
    np.testing.assert_array_equal(bundle.features, trained.seen().features)
    erm = run(place, bundle.name, "erm", device="cpu")
    shown = [sample_table(each, "test")["prediction"].to_numpy() for each in (erm, trained)]
    np.testing.assert_array_equal(*shown)
    weights = network_of(bundle, "trained", 0).module.state_dict()
    kept = load_file(trained.path / "network.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in weights.items())
    check_inputs(bundle, inputs_of(bundle), CPU)
    with pytest.raises(SettingError, match="fitted a head to the features of its bundle"):
        bundle_of_run(erm, "more")
    waiting = create_run(place, BUNDLE, "network_erm", device="cpu")
    with pytest.raises(RunStateError, match="is queued and has no features yet"):
        bundle_of_run(waiting, "more")


def test_what_a_run_takes_is_said_by_trying_a_batch(place):
    method = make_method("network_erm", {"steps": 7})
    cost = predict(open_bundle(place, BUNDLE), method, pick("cpu"))
    assert cost is not None
    assert cost.steps == 7
    assert cost.step_seconds > 0
    wrong = make_method("network_jtt", {"steps": 3, "first_epochs": 50})
    with pytest.raises(SettingError, match="first_epochs is 50 of 3 steps"):
        predict(open_bundle(place, BUNDLE), wrong, pick("cpu"))
    assert "for 7 steps" in cost.in_words()


def test_a_move_of_weights_counts_with_all_its_passes(place, monkeypatch):
    # Whatever is timed takes a second.
    clock = SimpleNamespace(perf_counter=count().__next__)
    for module in (gsr_core.runs.network, gsr_core.curvature.cost, gsr_core.curvature.engine):
        monkeypatch.setattr(module, "time", clock)
    bundle, compute = open_bundle(place, BUNDLE), pick("cpu")

    def seconds(name, **settings):
        cost = predict(bundle, make_method(name, {"steps": 10, **settings}), compute)
        return cost.step_seconds

    many = seconds("gsr_f_eh", max_products=1000)
    assert many > 10 * seconds("gsr_f_hf")
    assert many > 3 * seconds("gsr_f_eh", max_products=1000, warmup=9)
    assert predict(bundle, make_method("network_crest"), compute) is None


def test_the_influence_of_trained_rows_is_through_the_network(place, trained):
    plain = run(place, BUNDLE, "network_erm", device="cpu", steps=1)
    bundle = open_bundle(place, BUNDLE)
    for each in (trained, plain):
        assert each.influence() is None
        assert "goal" not in sample_table(each, "train")
        told = {}
        found = influence_at(each, None, told.setdefault)
        table = sample_table(each, "train")
        columns = [name for name in table if name.startswith(INFLUENCE)]
        assert columns == [INFLUENCE + name for name in bundle.group_names]
        np.testing.assert_array_equal(table[columns].to_numpy().astype(np.float32), found)
        np.testing.assert_array_equal(table["row"], each.weighted_rows())
        assert list(told) == sorted(told)
        assert max(told) <= 1
        assert "Pass 2 over the rows, of at most 32" in told.values()
        assert "influence through the network: Conjugate gradients" in each.log_text()
        assert "goal" not in sample_table(each, "test")
        with pytest.raises(RunStateError, match=r"has kept the network of step . alone"):
            influence_at(each, 99)
        profile = map_profile(each)
        config = map_config(bundle, None, space="influence", profile=profile)
        assert len(compute_map(place, bundle, None, config, profile=profile)) == len(table)
    # It is of the network that was kept before.
    continue_run(plain, 2)
    execute(plain)
    assert plain.influence() is None


def test_an_export_classifies_with_the_network_that_was_trained(place, trained, tmp_path):
    bundle = open_bundle(place, BUNDLE)
    export_run(trained, tmp_path / "taken")
    table = sample_table(trained, "test", bundle)
    folder = Path(plan_of(bundle).settings["path"])
    files = bundle.samples["path"].to_numpy()[table["row"].to_numpy()][:20]
    use = runpy.run_path(str(tmp_path / "taken" / "use.py"))
    images = [np.asarray(Image.open(folder / file).convert("RGB")) for file in files]
    features, rows = use["network_features"](images), table["row"].to_numpy()[:20]
    np.testing.assert_allclose(features, trained.seen().features[rows], rtol=1e-4, atol=1e-5)
    assert not np.allclose(features, bundle.features[rows], rtol=1e-2, atol=1e-2)
    found, probability = use["predict"](features)
    assert found == [bundle.manifest.classes[y] for y in table["prediction"][:20]]
    np.testing.assert_allclose(probability.max(axis=1), table["confidence"][:20], rtol=1e-4)


def test_the_network_that_was_trained_is_merged_and_not_the_bundles(place, trained, tmp_path):
    merged = merge_run(trained, tmp_path / "merged")
    assert merged.deviation <= TOLERANCE
    state, kept = (
        load_file(folder / name)
        for folder, name in (
            (tmp_path / "merged", "model.safetensors"),
            (trained.path, "network.safetensors"),
        )
    )
    assert all(torch.equal(value, kept[name]) for name, value in state.items())
    head, bias = trained.head()
    np.testing.assert_array_equal(state["fc.weight"], head)
    np.testing.assert_array_equal(state["fc.bias"], bias)


def test_a_head_whose_network_has_no_features_is_not_kept(place, trained):
    cut = create_run(place, BUNDLE, "network_erm", {"steps": 2}, device="cpu")
    execute(cut)
    stored = cut.checkpoint()
    for moved, there in ((0.0, True), (1.0, False)):
        # As if the process had died with a later step kept than the one that was written out.
        arrays = {**stored, "kept.head_weight": stored["kept.head_weight"] + moved}
        cut.write_arrays("checkpoint.safetensors", arrays)
        cut.write_state(cut.stored_state().model_copy(update={"status": Status.RUNNING}))
        assert cut.state.status is Status.FAILED
        assert (cut.head() is not None) == there


def test_the_labels_of_train_are_counted(place, trained):
    sizes = open_bundle(place, BUNDLE).manifest.split_sizes
    assert protocol_of(trained).labels == {split: sizes[split] for split in ("train", "val")}
    plain = create_run(place, BUNDLE, "network_erm", device="cpu")
    assert protocol_of(plain).labels == {"val": sizes["val"]}


def test_a_cancelled_run_goes_on_as_one_long_run(place, trained):
    cut = create_run(place, BUNDLE, "network_rwg", {"steps": 2}, device="cpu")
    state = execute(cut, monitor=lambda progress: progress.step_index == 1)
    assert (state.status, state.step) == (Status.CANCELLED, 1)
    assert cut.head() is not None
    continue_run(cut, 2)
    assert execute(cut).status is Status.FINISHED
    first, second = (load_file(each.path / "network.safetensors") for each in (cut, trained))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    np.testing.assert_array_equal(cut.seen().features, trained.seen().features)
    left, right = (each.metrics().set_index("metric").drop("seconds") for each in (cut, trained))
    np.testing.assert_array_equal(left["value"], right["value"])


def test_a_run_whose_process_died_has_no_head_and_can_be_continued(place):
    def die(progress):
        raise SystemExit

    dead = create_run(place, BUNDLE, "network_erm", {"steps": 2}, device="cpu")
    with pytest.raises(SystemExit):
        execute(dead, monitor=die)
    # As the lock is free now, whoever looks next finds the process gone.
    assert open_run(place, dead.run_id).state.status is Status.FAILED
    assert dead.head() is None
    continue_run(dead, 2)
    assert execute(dead).status is Status.FINISHED
    assert dead.head() is not None


def test_what_cannot_be_trained_is_refused_before_a_run_is_made(place):
    def without_recipe(manifest):
        manifest["recipe"] = None

    def without_network(manifest):
        manifest["recipe"]["plan"] |= {"backbone": None, "training": None}

    def without_weights(manifest):
        manifest["recipe"]["network"]["checkpoint"] = "gone.safetensors"

    before = len(list_runs(place))
    for change, said in (
        (without_recipe, "does not say how it was imported"),
        (without_network, "was imported as ready features"),
        (without_weights, "is gone: there is no file gone.safetensors; put it back"),
    ):
        bundle = edited(place, f"bad-{change.__name__.replace('_', '-')}", change)
        with pytest.raises(SettingError, match=said):
            create_run(place, bundle.name, "network_erm", device="cpu")
        with pytest.raises(SettingError, match=said):
            predict(bundle, make_method("network_erm"), pick("cpu"))
    with pytest.raises(SettingError, match="label noise"):
        create_run(place, BUNDLE, "network_erm", device="cpu", variation={"label_noise": 0.1})
    assert len(list_runs(place)) == before


def test_inputs_that_are_gone_end_a_run_with_a_sentence(place):
    def other_data(manifest):
        manifest["recipe"]["plan"]["settings"]["path"] = str(place.root)

    bundle = edited(place, "bad-data", other_data)
    failed = run(place, bundle.name, "network_erm", device="cpu", steps=1)
    assert failed.state.status is Status.FAILED
    assert "metadata.csv" in failed.state.message
    assert failed.head() is None
    with pytest.raises(RunStateError, match="start a new one, since it has no stored step"):
        bundle_of_run(failed, "more")


def test_settings_that_do_not_go_together_are_refused_before_the_start(place):
    with pytest.raises(SettingError, match="optimiser is auto"):
        create_run(place, BUNDLE, "network_erm", {"lr": 0.5}, device="cpu")


def test_a_network_is_trained_with_the_groups_that_are_seen_and_judged_by_the_bundles(place):
    seen = run(
        place, BUNDLE, "network_rwg", device="cpu", steps=1, variation={"seen_groups": ["class"]}
    )
    by_class = seen.weights().groupby("y")["weight"]
    # Every class is drawn equally often, and within it every row.
    np.testing.assert_allclose(by_class.sum(), 0.5, rtol=1e-6)
    assert (by_class.nunique() == 1).all()
    history = seen.metrics().query("group != '' and metric == 'accuracy'")
    counts = history.groupby("split")["group"].nunique()
    assert counts.to_dict() == {"target": 4, "test": 4, "val": 4, "val seen": 2}
    assert protocol_of(seen).labels == {}
