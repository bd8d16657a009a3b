import gc
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsr_core.data.inputs import ImageFiles, Texts
from gsr_core.errors import BadRowsError, DeviceError, SettingError
from gsr_core.features.backbones import build, load_backbone, save_checkpoint
from gsr_core.features.extract import extract

pytest.importorskip("ray", reason="needs the extra 'ray'")

from gsr_core.features import ray_engine
from gsr_core.features.ray_engine import extract_on_ray

N = 90
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cluster():
    """Two actors need more logical CPUs than two, or feeding and computing starve each other."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
        )
        yield ray
        ray.shutdown()
        # Ray does not wait for the daemons that it ends, which Python warns of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    file = tmp_path_factory.mktemp("backbone") / "network.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_checkpoint(build("simconv1", 3), file)
    return {"name": "simconv1", "checkpoint": file}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for row in range(N):
        # Large, so that reading them takes a while and the kill meets an actor at work.
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    (folder / "31.png").write_bytes(b"no image")
    return ImageFiles(folder, [f"{row}.png" for row in range(N)])


@pytest.fixture(scope="module")
def expected(choice, inputs):
    return extract(
        load_backbone(**choice),
        inputs,
        device=CPU,
        batch_size=2,
        on_bad="skip",
        thumbnails=True,
    )


def actors_of(parent: int) -> list[int]:
    """The processes that hold the network, by the title that Ray gives them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_text()
            if "ShardExtractor" in title and _descends(int(entry.name), parent):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def _descends(pid: int, parent: int) -> bool:
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if pid == parent:
            return True
    return False


def test_a_killed_actor_is_replaced_and_the_features_are_those_of_one_process(
    cluster, choice, inputs, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "BATCHES_A_SHARD", 2)
    seen, killed, told = [], [], []

    def kill_one(now):
        told.append(now.done)
        if not killed:
            # Both are at work: the first shards are there, most are not.
            seen.extend(actors_of(os.getpid()))
            os.kill(seen[0], signal.SIGKILL)
            killed.append(seen[0])

    result = extract_on_ray(
        choice,
        inputs,
        tmp_path,
        actors=2,
        batch_size=2,
        on_bad="skip",
        thumbnails=True,
        progress=kill_one,
    )
    assert len(seen) == 2
    assert len(killed) == 1
    assert told[0] == 4
    assert told[-1] == N
    assert result.complete
    assert result.bad == expected.bad
    assert [each.row for each in result.bad] == [31]
    good = result.good_rows()
    np.testing.assert_allclose(result.features[good], expected.features[good], rtol=0, atol=1e-6)
    assert np.isnan(result.features[31]).all()
    assert list(result.thumbnails()) == list(expected.thumbnails())

    # The folder is that of a single process: neither computes again what the other did.
    assert result.digest == expected.digest
    again = extract(
        load_backbone(**choice),
        inputs,
        tmp_path,
        device=CPU,
        on_bad="skip",
        thumbnails=True,
        progress=lambda now: told.append(now.total),
    )
    assert told[-1] == N
    assert np.array_equal(again.features, result.features, equal_nan=True)
    with pytest.raises(BadRowsError, match=r"31\.png"):
        extract_on_ray(choice, inputs, tmp_path, batch_size=2, thumbnails=True)


def test_it_goes_on_where_one_process_stopped(cluster, choice, inputs, expected, tmp_path):
    asked = iter([False, False, True])
    part = extract(
        load_backbone(**choice),
        inputs,
        tmp_path,
        device=CPU,
        batch_size=2,
        on_bad="skip",
        should_stop=lambda: next(asked),
    )
    assert len(part.features) == 6
    told = []
    whole = extract_on_ray(
        choice, inputs, tmp_path, actors=1, batch_size=2, on_bad="skip", progress=told.append
    )
    assert told[0].done == 6 + 2 * ray_engine.BATCHES_A_SHARD
    good = whole.good_rows()
    np.testing.assert_allclose(whole.features[good], expected.features[good], rtol=0, atol=1e-6)


def test_a_cluster_that_is_too_small_is_said(cluster, choice, inputs):
    with pytest.raises(DeviceError, match=r"4 actors need 5 CPUs.* the cluster has 4"):
        extract_on_ray(choice, inputs, actors=4)
    with pytest.raises(DeviceError, match="2 actors need as many GPUs, but the cluster has 0"):
        extract_on_ray(choice, inputs, device="cuda")


def test_options_out_of_range_are_refused(cluster, choice, inputs):
    with pytest.raises(SettingError, match="actors is 0; it must be at least 1"):
        extract_on_ray(choice, inputs, actors=0)
    with pytest.raises(SettingError, match="device is 'mps'"):
        extract_on_ray(choice, inputs, device="mps")
    with pytest.raises(SettingError, match="takes image inputs, but these are text"):
        extract_on_ray(choice, Texts(["a"]))
