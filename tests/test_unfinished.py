import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foveal import unfinished as module
from foveal.unfinished import is_unfinished, naming, remove_abandoned, unfinished

ENDLESS_WRITER = """
import sys, time
from pathlib import Path
from foveal.unfinished import unfinished
with unfinished(Path(sys.argv[1]), Path.touch) as path:
    print(path, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes a file and never ends, and the file's hidden path."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS_WRITER, str(tmp_path / "scan.nii.gz")],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_only_what_a_killed_process_left_is_removed(tmp_path, writer):
    process, path = writer
    assert is_unfinished(path)
    assert path.name.endswith("-scan.nii.gz")

    remove_abandoned(tmp_path)
    assert path.exists()

    process.kill()
    process.wait()
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_another_machine_writes_is_removed_when_it_is_old(tmp_path):
    other = tmp_path / ".unfinished-000000-12345678-scan.nii.gz"
    other.touch()

    remove_abandoned(tmp_path)
    assert other.exists()

    long_ago = time.time() - 2 * module.ABANDONED_SECONDS
    os.utime(other, (long_ago, long_ago))
    remove_abandoned(tmp_path)
    assert not other.exists()


def test_an_old_folder_with_a_young_file_is_kept(tmp_path):
    other = tmp_path / ".unfinished-000000-12345678-key"
    other.mkdir()
    (other / "image.tiles").touch()
    long_ago = time.time() - 2 * module.ABANDONED_SECONDS
    os.utime(other, (long_ago, long_ago))

    remove_abandoned(tmp_path)

    assert (other / "image.tiles").exists()


@pytest.mark.parametrize(
    "name", [".unfinished-notes", ".unfinished-000000-x-a", "unfinished", ".scan"]
)
def test_files_of_others_are_left_alone(tmp_path, name):
    path = tmp_path / name
    path.touch()
    os.utime(path, (0, 0))

    remove_abandoned(tmp_path)

    assert path.exists()
    assert not is_unfinished(path)


@pytest.mark.parametrize("name", ["a" * 248 + ".nii.gz", "ä" * 124 + ".nii.gz"])
def test_the_longest_names_can_be_written(tmp_path, name):
    with unfinished(tmp_path / name, Path.touch) as path:
        assert path.exists()
        assert path.name.endswith(".nii.gz")
        path.rename(tmp_path / name)

    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_writer_takes_another_name_where_the_first_was_deleted(tmp_path, monkeypatch):
    lock, locked = module._lock, []

    def delete_once(path):
        if not locked:
            path.unlink()
        locked.append(path)
        return lock(path)

    monkeypatch.setattr(module, "_lock", delete_once)
    with unfinished(tmp_path / "a", Path.touch) as path:
        assert path.exists()

    assert len(locked) == 2
    assert locked[0] != path


def test_an_error_names_the_file_that_was_meant(tmp_path):
    hidden = tmp_path / ".unfinished-000000-12345678-a.json"
    for filename in (None, str(hidden)):
        with (
            pytest.raises(OSError, match=r"No space left .*[/\\]a\.json") as caught,
            naming(tmp_path / "a.json"),
        ):
            raise OSError(errno.ENOSPC, "No space left on device", filename)
        assert caught.value.filename == str(tmp_path / "a.json")


def test_an_error_that_names_another_file_keeps_its_name(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"scan\.nii"),
        naming(tmp_path / "a.json"),
    ):
        (tmp_path / "scan.nii").read_bytes()
