import hashlib
import os
import stat
import threading

import pytest

from gsr_core.files import new_directory, replace_file, sha256


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path):
    target = tmp_path / "a.txt"
    for text in ("one", "two"):
        with replace_file(target) as temporary:
            assert temporary.parent == tmp_path
            temporary.write_text(text)
        assert target.read_text() == text
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half():
        with replace_file(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_replaced_file_has_the_permissions_of_any_new_file(tmp_path):
    with replace_file(tmp_path / "a") as temporary:
        temporary.touch(mode=0o600)
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == (
        stat.S_IMODE((tmp_path / "b").stat().st_mode)
    )


def test_readers_never_see_a_part(tmp_path):
    target = tmp_path / "a"
    target.write_bytes(b"0" * 100_000)
    stop, seen = threading.Event(), set()

    def read():
        while not stop.is_set():
            seen.add((len(content := target.read_bytes()), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    for digit in b"123456789" * 10:
        with replace_file(target) as temporary:
            temporary.write_bytes(bytes([digit]) * 100_000)
    stop.set()
    reader.join()
    assert seen == {(100_000, 1)}


def test_a_directory_appears_whole_with_its_parents(tmp_path):
    target = tmp_path / "some" / "where"
    with new_directory(target) as temporary:
        (temporary / "a").write_text("one")
        assert not target.exists()
    assert names(target) == ["a"]
    assert names(target.parent) == ["where"]


def test_a_directory_that_exists_is_not_touched_unless_told(tmp_path):
    target = tmp_path / "there"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileExistsError), new_directory(target):
        pass
    with new_directory(target, overwrite=True) as temporary:
        (temporary / "new").touch()
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["there"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_whose_block_raises_is_not_made(tmp_path, overwrite):
    target = tmp_path / "there"
    if overwrite:
        target.mkdir()
        (target / "old").touch()

    def write_half():
        with new_directory(target, overwrite=overwrite) as temporary:
            (temporary / "half").touch()
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        write_half()
    assert names(tmp_path) == (["there"] if overwrite else [])
    if overwrite:
        assert names(target) == ["old"]


def test_two_who_make_the_same_directory_do_not_mix(tmp_path):
    target = tmp_path / "there"

    def write_both():
        with new_directory(target) as mine:
            (mine / "mine").touch()
            with new_directory(target) as other:
                (other / "other").touch()

    with pytest.raises(FileExistsError, match="there exists"):
        write_both()
    assert names(target) == ["other"]
    assert names(tmp_path) == ["there"]


def test_a_directory_lost_between_two_renames_comes_back(tmp_path, monkeypatch):
    target, real = tmp_path / "there", os.rename
    target.mkdir()
    (target / "old").touch()

    def rename(source, destination):
        if destination == target:
            raise KeyboardInterrupt
        real(source, destination)

    with (
        monkeypatch.context() as killed,
        pytest.raises(KeyboardInterrupt),
        new_directory(target, overwrite=True),
    ):
        killed.setattr("gsr_core.files.os.rename", rename)
    assert not target.exists()
    with pytest.raises(FileExistsError), new_directory(target):
        pass
    assert names(target) == ["old"]
    with new_directory(target, overwrite=True) as temporary:
        (temporary / "newer").touch()
    assert names(target) == ["newer"]


def test_leftovers_are_taken_away_but_nobody_elses(tmp_path):
    others = [".a.b.01234567.old", ".a.b.01234567.tmp", ".ab.01234567.tmp", ".a.01234567.tmp"]
    for name in ("a", ".a.89abcdef.old", ".a.89abcdef.tmp", *others):
        (tmp_path / name).mkdir()
    for name in (".a.89abcdef.tmp", ".a.b.01234567.tmp", ".ab.01234567.tmp"):
        os.utime(tmp_path / name, (0, 0))
    with new_directory(tmp_path / "a", overwrite=True):
        pass
    assert names(tmp_path) == sorted(["a", *others])


def test_a_digest_is_that_of_the_content(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
