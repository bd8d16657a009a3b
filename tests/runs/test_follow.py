import importlib.util
import json

import pytest

from gsr_core.cli.main import app
from gsr_core.errors import MissingExtraError, SettingError
from gsr_core.runs import follow as module
from gsr_core.runs.execute import execute
from gsr_core.runs.follow import FOLLOWERS, Follower, check_followers, follow, followed


class Told(Follower):
    """Keeps what it is told, and breaks at a step if it is to."""

    module = ("json", "none")
    breaks = 0

    def begin(self, folder, about, settings):
        self.about, self.settings, self.steps, self.ended = about, settings, {}, 0

    def write(self, step, values):
        if step == self.breaks:
            raise OSError("the other program is gone")
        self.steps[step] = values

    def end(self):
        self.ended += 1


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setitem(module.FOLLOWERS, "told", Told)


def numbers(run) -> dict[int, dict[str, float]]:
    """What the run's own record has, step by step, by the names that followers use."""
    steps: dict[int, dict[str, float]] = {}
    for row in run.metrics().dropna().to_dict("records"):
        parts = (row["split"] or "fit", row["metric"], row["group"])
        steps.setdefault(row["step"], {})["/".join(filter(None, parts))] = row["value"]
    return steps


def test_a_follower_is_told_what_the_run_records(make, told):
    run = make()
    with follow("told", run) as follower:
        execute(run, monitor=follower)
    assert follower.settings == run.config.settings
    assert (follower.about["run"], follower.ended) == (run.run_id, 1)
    wanted = numbers(run)
    assert follower.steps.keys() == wanted.keys() == set(range(1, 6))
    for step, values in follower.steps.items():
        kept = values.pop("kept step")
        assert values == wanted[step]
    assert kept == run.state.best_step


def test_a_follower_that_breaks_ends_nothing_but_itself(make, told, monkeypatch, same_outcome):
    alone, run = make(), make()
    execute(alone)
    monkeypatch.setattr(Told, "breaks", 2)
    with follow("told", run) as follower:
        execute(run, monitor=follower)
    assert list(follower.steps) == [1]
    assert follower.ended == 0
    assert "no longer followed by Told: the other program is gone" in run.log_text()
    same_outcome(alone, run)


def test_what_cannot_follow_is_said_before_a_run_is_made(workspace, monkeypatch, capsys):
    with pytest.raises(SettingError, match="'tensor' follows no run; choose from tensorboard, ml"):
        check_followers(["tensor"])
    monkeypatch.setattr(FOLLOWERS["wandb"], "module", ("no_such_library", "wandb"))
    with pytest.raises(MissingExtraError, match=r"install it with pip install 'gsr-core\[wandb\]'"):
        check_followers(["wandb"])
    words = ["run", "tiny", "--follow", "wandb", "--workspace", str(workspace.root)]
    with pytest.raises(MissingExtraError):
        app(words, standalone_mode=False)
    assert not list(workspace.runs.glob("*"))


def test_mlflow_gets_a_name_of_its_own_for_each_of_ours():
    names = module._Names()
    ours = ["test/accuracy/a<b", "test/accuracy/a>b", "test/accuracy/a_b", "test/accuracy/ä"]
    theirs = [names.of(each) for each in ours]
    assert len(set(theirs)) == 4
    assert [names.of(each) for each in ours] == theirs
    assert all(each.isascii() and "<" not in each for each in theirs)


def installed(kind: str):
    there = importlib.util.find_spec(FOLLOWERS[kind].module[0]) is not None
    return pytest.mark.skipif(not there, reason=f"the extra {kind} is not installed")


@installed("tensorboard")
def test_tensorboard_reads_the_numbers_of_the_run(make):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make()
    with follow("tensorboard", run) as follower:
        execute(run, monitor=follower)
    events = EventAccumulator(str(followed("tensorboard", run) / run.run_id)).Reload()
    wanted = numbers(run)
    for name in events.Tags()["scalars"]:
        shown = {event.step: event.value for event in events.Scalars(name)}
        if name != "kept step":
            assert shown == {
                step: pytest.approx(values[name], rel=1e-6)
                for step, values in wanted.items()
                if name in values
            }
    assert set(wanted[5]) <= set(events.Tags()["scalars"])


@installed("mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_numbers_and_the_settings_of_the_run(make):
    from mlflow import MlflowClient

    run = make(steps=2)
    with follow("mlflow", run) as follower:
        execute(run, monitor=follower)
    client = MlflowClient(tracking_uri=f"sqlite:///{followed('mlflow', run) / 'mlflow.db'}")
    kept = client.get_run(follower.id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {key: str(value) for key, value in run.config.settings.items()}
    history = client.get_metric_history(follower.id, "test/worst_group_accuracy")
    wanted = [numbers(run)[step]["test/worst_group_accuracy"] for step in (1, 2)]
    assert [each.value for each in history] == wanted


@installed("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_the_run_offline(make, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = make(steps=2)
    with follow("wandb", run) as follower:
        execute(run, monitor=follower)
    assert "no longer followed" not in run.log_text()
    (kept,) = followed("wandb", run).glob("wandb/offline-run-*/run-*.wandb")
    stored, wanted = kept.read_bytes(), numbers(run)[2]
    for name in ("test/worst_group_accuracy", "heldout/weight_sum/cat, red"):
        assert name.encode() in stored
        assert json.dumps(wanted[name]).encode() in stored
