"""`foveal evaluate` on expert segmentations."""

import shutil

import numpy as np
import pytest
from conftest import data_folder
from scipy import ndimage
from scipy.spatial import cKDTree

from foveal.commands.evaluate import evaluate
from foveal.io.datasets import read_dataset
from foveal.io.volumes import read_volume


def test_partially_annotated_cases_have_rows_for_their_organs_only(tmp_path):
    folder = data_folder("headneck_ct")
    cases = [case for case in read_dataset(folder).cases if case.label_map][:4]
    for case in cases:
        shutil.copy(case.label_map, tmp_path / f"{case.name}.nii.gz")
    evaluation = evaluate(tmp_path, folder)
    for case in cases:
        dice = {
            row.structure: row.value
            for row in evaluation.rows
            if row.case == case.name and row.metric == "dice"
        }
        assert set(dice) == set(case.annotated)
        assert set(dice.values()) == {1.0}


def border_mm(mask, spacing_mm):
    # The margin of a voxel keeps the border; distances do not depend on the crop.
    (window,) = ndimage.find_objects(mask.astype(np.uint8))
    corner = [axis.start for axis in window]
    mask = np.pad(mask[window], 1)
    eroded = ndimage.binary_erosion(mask)
    return (np.argwhere(mask & ~eroded) + corner) * spacing_mm


def test_two_raters_differ_by_what_a_search_for_nearest_voxels_gives():
    folder = data_folder("two_raters") / "0522c0014"
    raters = folder / "oncologist", folder / "radiographer"
    paths = [rater / "Parotid-Lt.nrrd" for rater in raters]
    evaluation = evaluate(*paths, labels={"parotid": 1})
    borders = [
        border_mm(volume.array > 0, volume.grid.spacing_mm)
        for volume in map(read_volume, paths)
    ]
    there = cKDTree(borders[1]).query(borders[0])[0]
    back = cKDTree(borders[0]).query(borders[1])[0]
    distances = np.concatenate([there, back])
    assert evaluation.mean("parotid", "hd_mm") == pytest.approx(distances.max())
    assert evaluation.mean("parotid", "assd_mm") == pytest.approx(distances.mean())
    assert evaluation.mean("parotid", "hd95_mm") == pytest.approx(
        np.percentile(distances, 95)
    )
