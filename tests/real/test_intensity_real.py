import numpy as np
import pytest
from conftest import data_folder

from foveal.case import CaseFiles, ChannelFile
from foveal.errors import CaseError
from foveal.io.cases import read_case
from foveal.io.datasets import read_dataset
from foveal.preprocessing.bias_field import BiasField
from foveal.preprocessing.histogram_standardisation import (
    case_landmarks,
    learned_landmarks,
    standardise,
)
from foveal.preprocessing.intensity import IntensityRecipe
from foveal.preprocessing.pipeline import PreprocessingRecipe, preprocess_case

PERCENTILES = (1.0, *(float(tenth) for tenth in range(10, 100, 10)), 99.0)


def test_hippocampi_of_all_scales_have_the_landmarks_they_were_taught():
    listed = read_dataset(data_folder("hippocampus")).cases[60:110:10]
    images = [read_case(files).image[0] for files in listed]
    assert max(np.median(image) for image in images) > 1000 * min(
        np.median(image) for image in images
    )

    landmarks = learned_landmarks(
        PERCENTILES, [case_landmarks(image, None, PERCENTILES) for image in images]
    )

    for image in images:
        found = np.percentile(standardise(image, None, landmarks), PERCENTILES)
        np.testing.assert_allclose(found, landmarks.values, atol=0.5)


def test_a_brain_that_was_normalised_before_has_no_bias_field_to_correct():
    folder = data_folder("brats") / "brats_2013_pat0003_1"
    files = CaseFiles(
        name="brain",
        patient="brain",
        channels=(ChannelFile(folder / "flair.nii.gz"),),
        mask=folder / "brainmask.nii.gz",
    )
    recipe = PreprocessingRecipe(
        orientation="RAS",
        spacing_mm=(4.0, 4.0, 4.0),
        crop="mask",
        channels=(IntensityRecipe("flair", "zscore", bias_field=BiasField()),),
        label_values=(1,),
        combinations=(("tumour",),),
    )

    with pytest.raises(CaseError, match=r'case brain: channel "flair": .* 43\.6 % of'):
        preprocess_case(read_case(files), recipe)
