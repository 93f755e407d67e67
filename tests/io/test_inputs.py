import numpy as np
import pytest

from foveal.errors import CaseError, DatasetError
from foveal.geometry import Grid
from foveal.io import volumes
from foveal.io.inputs import cases_to_predict
from foveal.io.volumes import write_volume


def volume(path):
    write_volume(path, np.zeros((2, 2, 2), np.int16), Grid((2, 2, 2), np.eye(4)))
    return path


def names(cases):
    return [case.name for case in cases]


def test_one_volume_is_one_case(tmp_path):
    (case,) = cases_to_predict(volume(tmp_path / "a.nii"), 1)
    assert (case.name, len(case.channels)) == ("a", 1)


def test_a_folder_of_volumes_is_a_case_each_and_segmentations_are_none(tmp_path):
    for name in ("a.nii", "b.nrrd", "b.seg.nrrd", "more/c.mha"):
        volume(tmp_path / name)
    assert names(cases_to_predict(tmp_path, 1)) == ["a", "b", "more_c"]


def test_numbered_files_are_channels_where_several_are_wanted(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000"):
        volume(tmp_path / f"{name}.nii")
    first, second = cases_to_predict(tmp_path, 2)
    assert names([first, second]) == ["a", "b"]
    assert [channel.path.name for channel in second.channels] == [
        "b_0000.nii",
        "b_0001.nii",
    ]
    volume(tmp_path / "c.nii")
    with pytest.raises(CaseError, match=r"c\.nii does not end in a channel number"):
        cases_to_predict(tmp_path, 2)


def test_the_label_maps_of_a_data_set_are_not_opened(tmp_path, monkeypatch):
    for folder in ("images", "labels"):
        volume(tmp_path / folder / "a.nii")
    monkeypatch.setattr(volumes, "_read", lambda path: pytest.fail(str(path)))
    assert names(cases_to_predict(tmp_path, 1)) == ["a"]


def test_a_folder_per_case_needs_no_segmentations(tmp_path):
    for name in ("p1", "p2"):
        volume(tmp_path / name / "ct.nii")
    cases = cases_to_predict(tmp_path, 1)
    assert names(cases) == ["p1", "p2"]
    assert cases[0].channels[0].path == tmp_path / "p1" / "ct.nii"


def test_excluded_cases_are_not_predicted(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("case,channels,exclude\na,a.nii,\nb,,lost\n")
    volume(tmp_path / "a.nii")
    assert names(cases_to_predict(table, 1)) == ["a"]


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (["a.nii", "a.nii.gz"], 'are both called "a"'),
        (["x/b.nii", "x_b.nii"], 'case name "x_b" stands 2 times'),
        (["a.nii", "A.nii"], 'case name "A" stands 2 times'),
        (["\u00e9.nii", "e\u0301.nii"], "stands 2 times"),
        (["x.nii", "nul.nii"], 'case "nul" cannot name files everywhere'),
    ],
)
def test_outputs_that_would_collide_are_refused(tmp_path, files, match):
    for file in files:
        volume(tmp_path / file)
    if len({path.name for path in tmp_path.iterdir()}) < len(files):
        pytest.skip("this disk does not tell the names apart")
    with pytest.raises(DatasetError, match=match):
        cases_to_predict(tmp_path, 1)


def test_what_is_neither_a_volume_nor_a_data_set_is_refused(tmp_path):
    with pytest.raises(CaseError, match="does not exist"):
        cases_to_predict(tmp_path / "none", 1)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DatasetError, match="may also be one volume"):
        cases_to_predict(tmp_path, 1)
