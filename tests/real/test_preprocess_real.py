from dataclasses import replace

import numpy as np
import pytest
from conftest import data_folder
from phantoms import placed

from foveal.building import preprocessing_recipe
from foveal.case import CaseFiles, ChannelFile
from foveal.commands.plan import plan
from foveal.commands.preprocess import preprocess
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.preprocessing.intensity import IntensityRecipe
from foveal.preprocessing.pipeline import PreprocessingRecipe, preprocess_case
from foveal.preprocessing.resample import resample_label_map


def planned(dataset):
    return plan(dataset, device="cpu", threads=2, memory_gb=4.0).plan


def whole(case):
    return tuple(slice(0, length) for length in case.shape)


@pytest.mark.slow
def test_hippocampi_of_all_scales_and_types_come_to_one_scale(tmp_path):
    dataset = read_dataset(data_folder("hippocampus"))

    stored = preprocess(dataset, planned(dataset), store=tmp_path)

    assert len(stored) == 200
    for case in stored:
        image = case.read_image(whole(case))
        lower, median, upper = np.quantile(image, (0.25, 0.5, 0.75))
        assert median == pytest.approx(0, abs=1e-3)
        assert upper - lower == pytest.approx(1.349, abs=1e-3)
        label_map = case.read_label_map(whole(case))
        assert np.bincount(label_map.ravel(), minlength=3).tolist() == list(
            case.class_counts
        )
        for label in (1, 2):
            for n in (0, case.class_counts[label] - 1):
                assert label_map[case.class_voxel(label, n)] == label


def test_head_and_neck_labels_find_back_to_the_stored_axes():
    dataset = read_dataset(data_folder("headneck_ct"))
    dataset = replace(dataset, cases=dataset.cases[:4])
    recipe = preprocessing_recipe(planned(dataset))
    for files in dataset.cases:
        case = read_case(files)
        assert case.grid.orientation == "PLI"

        result = preprocess_case(case, recipe)
        assert result.grid.orientation == "RAS"
        cropped = resample_label_map(result.label_map, result.restoration.cropped_shape)
        restored = placed(result.restoration, cropped)

        # Label values of this set are consecutive already.
        both = np.count_nonzero((restored > 0) & (restored == case.label_map))
        total = np.count_nonzero(restored) + np.count_nonzero(case.label_map)
        assert 2 * both / total > 0.9


def test_partial_annotation_is_kept(tmp_path):
    dataset = read_dataset(data_folder("headneck_ct"))
    dataset = replace(dataset, cases=dataset.cases[:3])

    stored = preprocess(dataset, planned(dataset), store=tmp_path)

    for listed, case in zip(dataset.cases, stored, strict=True):
        expected = [name in listed.annotated for name in dataset.structures]
        assert case.annotated == tuple(expected)


def test_brains_are_cropped_to_their_masks_in_place():
    folder = min(path for path in data_folder("brats").iterdir() if path.is_dir())
    case = read_case(
        CaseFiles(
            name=folder.name,
            patient=folder.name,
            channels=tuple(
                ChannelFile(folder / f"{name}.nii.gz") for name in ("flair", "t1c")
            ),
            label_map=folder / "label.nii.gz",
            mask=folder / "brainmask.nii.gz",
        )
    )
    recipe = PreprocessingRecipe(
        orientation="RAS",
        spacing_mm=(1.0, 1.0, 1.0),
        crop="mask",
        channels=tuple(
            IntensityRecipe(name, "robust_zscore") for name in ("FLAIR", "T1c")
        ),
        label_values=(1, 2, 3, 4),
        combinations=(("necrosis",), ("edema",), ("solid",), ("enhancing",)),
    )

    result = preprocess_case(case, recipe)

    restoration = result.restoration
    assert result.image.shape[1:] == restoration.cropped_shape
    assert np.prod(restoration.cropped_shape) < 0.5 * case.mask.size
    mask = restoration.reorientation.apply(case.mask)[restoration.window]
    for channel in result.image:
        assert np.median(channel[mask]) == pytest.approx(0, abs=1e-3)
    # The tumour lies in the brain, so the crop loses nothing of it.
    restored = placed(restoration, result.label_map)
    np.testing.assert_array_equal(restored, case.label_map)
