import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from foveal.ensembles.staple import staple, staple_of
from foveal.ensembles.votes import gather_votes


@pytest.mark.parametrize("seed", range(3))
def test_binary_staple_is_that_of_simpleitk(seed):
    generator = np.random.default_rng(seed)
    truth = np.zeros((20, 18, 16), bool)
    truth[5:15, 4:13, 3:10] = True
    masks = [
        np.where(
            truth,
            generator.random(truth.shape) < generator.uniform(0.6, 1),
            generator.random(truth.shape) > generator.uniform(0.8, 1),
        ).astype(np.uint8)
        for _ in range(4)
    ]
    reference = sitk.STAPLEImageFilter()
    reference.SetForegroundValue(1)
    images = [sitk.GetImageFromArray(mask) for mask in masks]
    chance = sitk.GetArrayFromImage(reference.Execute(images))
    found = staple_of(gather_votes(masks))
    assert found.sensitivity[:, 1] == pytest.approx(
        reference.GetSensitivity(), abs=1e-5
    )
    assert found.specificity[:, 1] == pytest.approx(
        reference.GetSpecificity(), abs=1e-5
    )
    assert np.array_equal(staple(masks), chance > 0.5)


def test_staple_of_several_labels_is_that_of_simpleitk():
    generator = np.random.default_rng(0)
    truth = generator.choice([0, 0, 0, 1, 2], (15, 14, 13))
    maps = []
    for wrong in (0.05, 0.1, 0.2, 0.25):
        is_wrong = generator.random(truth.shape) < wrong
        other = generator.choice([0, 1, 2], truth.shape)
        maps.append(np.where(is_wrong, other, truth).astype(np.uint8))
    reference = sitk.MultiLabelSTAPLEImageFilter()
    reference.SetTerminationUpdateThreshold(1e-7)
    reference.SetMaximumNumberOfIterations(500)
    images = [sitk.GetImageFromArray(label_map) for label_map in maps]
    fused = sitk.GetArrayFromImage(reference.Execute(images))
    assert np.array_equal(staple(maps), fused)
    found = staple_of(gather_votes(maps)).confusion
    for rater in range(4):
        # Rows are said, the last that nothing is said; columns are true.
        matrix = np.reshape(reference.GetConfusionMatrix(rater), (4, 3))[:3]
        assert found[rater] == pytest.approx(matrix, abs=1e-3)
