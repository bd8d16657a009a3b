from dataclasses import replace
from pathlib import Path

import pytest

from gsr_core.data.bundle import list_bundles
from gsr_core.workspace import Workspace


def test_the_place_asked_for_comes_before_the_environment_and_that_before_the_default(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GSR_WORKSPACE", str(tmp_path / "environment"))
    assert Workspace.at("asked").root == tmp_path / "asked"
    assert Workspace.at(Path("asked")).root == tmp_path / "asked"
    assert Workspace.at().root == tmp_path / "environment"
    monkeypatch.setenv("GSR_WORKSPACE", "")
    assert Workspace.at().root == tmp_path / "gsr_workspace"
    monkeypatch.delenv("GSR_WORKSPACE")
    assert Workspace.at().root == tmp_path / "gsr_workspace"


def test_a_path_may_be_text(tmp_path):
    written = Workspace(str(tmp_path))
    assert written == Workspace(tmp_path)
    assert hash(written) == hash(Workspace(tmp_path))
    assert list_bundles(written) == []
    assert replace(written, root="b").bundles == Path("b/bundles")
    with pytest.raises(TypeError, match="missing 1 required"):
        Workspace()


def test_a_tilde_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workspace.at("~/w").root == tmp_path / "w"


def test_looking_makes_nothing(tmp_path):
    workspace = Workspace.at(tmp_path / "w")
    folders = [getattr(workspace, name) for name in ("bundles", "runs", "maps", "jobs", "slices")]
    assert [folder.parent for folder in folders] == [workspace.root] * 5
    assert len(set(folders)) == 5
    assert not workspace.root.exists()


def test_workspaces_at_the_same_place_are_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Workspace.at("w") == Workspace.at(tmp_path / "x" / ".." / "w")
    with pytest.raises(AttributeError):
        Workspace.at("w").root = tmp_path
