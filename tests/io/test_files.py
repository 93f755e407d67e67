from pathlib import Path

import pytest

from foveal.io import files
from foveal.io.files import atomic_path, atomic_write_bytes, atomic_write_text


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "scan.nii.gz"
    atomic_write_bytes(path, b"old")

    def fail_half_way():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_file_lies_beside_the_target_with_its_ending(tmp_path):
    path = tmp_path / "new" / "scan.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
        assert not path.exists()
    assert path.read_bytes() == b"x"


def test_text_is_written_as_utf8_without_carriage_returns(tmp_path):
    atomic_write_text(tmp_path / "a.toml", "ü\nb\n")
    assert (tmp_path / "a.toml").read_bytes() == "ü\nb\n".encode()


def test_a_file_that_is_held_for_a_moment_is_replaced(tmp_path, monkeypatch):
    replace, refusals = files.os.replace, iter([True, True, False])

    def held(source, target):
        if next(refusals):
            raise PermissionError("held by another program")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", held)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    atomic_write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_file_that_stays_held_is_an_error(tmp_path, monkeypatch):
    def held(*_):
        raise PermissionError("held by another program")

    monkeypatch.setattr(files.os, "replace", held)
    monkeypatch.setattr(Path, "replace", held)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    with pytest.raises(PermissionError, match="held"):
        atomic_write_text(tmp_path / "a", "new")
    assert list(tmp_path.iterdir()) == []
