import os

import pytest

from foveal.case import CaseFiles, ChannelFile
from foveal.preprocessing.sources import FileDigests, case_content


@pytest.fixture
def files(tmp_path):
    for name in ("image", "labels", "mask", "weights"):
        (tmp_path / f"{name}.nii").write_bytes(name.encode())
    return CaseFiles(
        name="a",
        patient="p",
        channels=(ChannelFile(tmp_path / "image.nii"),),
        label_map=tmp_path / "labels.nii",
        mask=tmp_path / "mask.nii",
        weight_map=tmp_path / "weights.nii",
        annotated=("c", "a"),
    )


def content(files, folder):
    return case_content(files, FileDigests(folder / "digests.json"))


@pytest.mark.parametrize("name", ["image", "labels", "mask", "weights"])
def test_a_changed_file_changes_the_content(files, tmp_path, name):
    before = content(files, tmp_path)

    (tmp_path / f"{name}.nii").write_bytes(b"other")

    assert content(files, tmp_path) != before


def test_a_renamed_file_of_the_same_content_does_not(files, tmp_path):
    before = content(files, tmp_path)
    (tmp_path / "image.nii").rename(tmp_path / "moved.nii")
    moved = CaseFiles(
        name="b",
        patient="q",
        channels=(ChannelFile(tmp_path / "moved.nii"),),
        label_map=files.label_map,
        mask=files.mask,
        weight_map=files.weight_map,
        annotated=("a", "c"),
    )

    assert content(moved, tmp_path) == before


def test_a_file_that_did_not_change_is_not_read_again(files, tmp_path):
    path = files.channels[0].path
    digests = FileDigests(tmp_path / "digests.json")
    before = digests.digest(path)
    digests.save()
    stat = path.stat()
    path.write_bytes(b"egami")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    # Same size and time: it counts as unchanged, so it was not read.
    assert FileDigests(tmp_path / "digests.json").digest(path) == before

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert FileDigests(tmp_path / "digests.json").digest(path) != before


def test_damaged_kept_hashes_count_as_none(files, tmp_path):
    before = content(files, tmp_path)
    (tmp_path / "digests.json").write_bytes(b'{"half')

    assert content(files, tmp_path) == before


def test_the_voxels_beside_an_mhd_header_count(tmp_path):
    header = tmp_path / "image.mhd"
    header.write_text("NDims = 3\nElementDataFile = image.raw\n", encoding="utf-8")
    (tmp_path / "image.raw").write_bytes(b"voxels")
    digests = FileDigests(tmp_path / "digests.json")
    before = digests.digest(header)

    (tmp_path / "image.raw").write_bytes(b"others, longer")

    assert digests.digest(header) != before


def test_a_missing_file_is_an_os_error(files, tmp_path):
    files.label_map.unlink()

    with pytest.raises(FileNotFoundError, match=r"labels\.nii"):
        content(files, tmp_path)
