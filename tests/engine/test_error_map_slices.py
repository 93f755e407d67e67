"""Slices of error maps that stay for people, while the maps themselves go."""

import json

import numpy as np
import pytest

from foveal.commands.refreshing import error_map_folder
from foveal.config.settings import Settings
from foveal.engine import error_maps
from foveal.engine.error_maps import ErrorMapFolder, fullest_index
from foveal.engine.run_directory import RunDirectory
from foveal.geometry import Grid
from foveal.inference.errors import CaseErrors
from foveal.io.volumes import read_volume
from foveal.store.store import Store

SHAPE = (4, 5, 6)


@pytest.fixture
def cases(tmp_path):
    """Four cases; most of the structure lies at i = 1, j = 2 and k = 4."""
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[1, 2, 1:5] = 1
    label_map[1:4, 2, 4] = 1
    label_map[1, 0:2, 4] = 1
    label_map[0] = 255
    grid = Grid(SHAPE, np.diag([1.0, 1.0, 3.0, 1.0]))
    store = Store(tmp_path / "store")
    image = np.zeros((1, *SHAPE), np.float32)
    store.write("key", image, label_map, grid, num_classes=2, annotated=None)
    names = ("d", "b", "c", "a")
    return [store.open("key", name=name, patient=name) for name in names]


def errors_of_voxels():
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint8)
    return CaseErrors(values, 0.5, {"one": 0.5})


@pytest.mark.parametrize(("axis", "index"), [(0, 1), (1, 2), (2, 4)])
def test_the_slice_has_most_of_the_structures_and_its_errors(
    cases, tmp_path, axis, index
):
    assert fullest_index(cases[0], axis) == index
    by_name = {case.name: case for case in cases}
    # Maps of blocks, but pictures of voxels.
    maps = ErrorMapFolder(tmp_path / "maps", by_name, 2, {"a": axis})
    found = errors_of_voxels()
    maps.write("a", 5, found)
    path = tmp_path / "maps" / "cases" / "a" / "step_0000005.png"
    pixels = read_volume(path).array[..., 0]
    assert np.array_equal(pixels, np.take(found.error, index, axis))
    record = json.loads(path.with_suffix(".json").read_text())
    place = {"axis": axis, "index": index, "affine": cases[0].grid.affine.tolist()}
    assert record["slice"] == place


def test_slices_stay_when_their_maps_are_deleted(cases, tmp_path):
    maps = ErrorMapFolder(tmp_path, {"a": cases[3]}, 1, {"a": 2})
    for step in (1, 2):
        maps.write("a", step, errors_of_voxels())
        maps.use("a", step)
    maps.forget([])
    left = sorted(path.name for path in (tmp_path / "cases" / "a").iterdir())
    assert left == [
        *("step_0000001.json", "step_0000001.png"),
        *("step_0000002.json", "step_0000002.png", "step_0000002.tiles"),
    ]


def test_records_without_a_picture_go_with_their_maps(cases, tmp_path):
    maps = ErrorMapFolder(tmp_path, {"a": cases[3]})
    for step in (1, 2, 3):
        maps.write("a", step, errors_of_voxels())
        maps.use("a", step)
    maps.forget([])
    maps.write("a", 4, errors_of_voxels())
    maps.delete("a", 4)
    left = sorted(path.name for path in (tmp_path / "cases" / "a").iterdir())
    assert left == ["step_0000003.json", "step_0000003.tiles"]


def test_pictures_are_thinned_out_evenly(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(error_maps, "MOST_PICTURES", 8)
    maps = ErrorMapFolder(tmp_path, {"a": cases[3]}, 1, {"a": 2})
    for step in range(1, 60):
        maps.write("a", step, errors_of_voxels())
        maps.use("a", step)
        maps.forget([])
    folder = tmp_path / "cases" / "a"
    steps = sorted(int(path.stem[5:]) for path in folder.glob("*.png"))
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (1, 59)
    # Nowhere a hole: a part of eight, evenly, is 58 / 7 = 8 long.
    assert max(np.diff(steps)) <= 2 * 58 / 7
    assert {path.stem for path in folder.glob("*.json")} == {
        path.stem for path in folder.glob("*.png")
    }


def test_the_first_two_cases_by_name_are_kept_across_the_coarse_axis(cases, tmp_path):
    run = RunDirectory(tmp_path / "run")
    maps = error_map_folder(run, Settings(), {"labelled": cases})
    for name in "abcd":
        maps.write(name, 7, errors_of_voxels())
    kept = sorted(path.parent.name for path in run.error_maps.glob("cases/*/*.png"))
    assert kept == ["a", "b"]
    record = json.loads(
        (run.error_maps / "cases" / "b" / "step_0000007.json").read_text()
    )
    assert record["slice"]["axis"] == 2
    without = json.loads(
        (run.error_maps / "cases" / "c" / "step_0000007.json").read_text()
    )
    assert "slice" not in without
