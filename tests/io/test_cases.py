import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from foveal.case import CaseFiles, ChannelFile
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.io.cases import LARGEST_WEIGHT, read_case
from foveal.io.label_maps import integer_label_map, present_labels
from foveal.io.volumes import write_volume
from foveal.losses.cross_entropy import cross_entropy

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def write(path, array, affine=AFFINE):
    write_volume(path, array, Grid(array.shape, affine))
    return path


def image(value=0.0, shape=(4, 5, 6)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + value


def listed(tmp_path, **changes):
    files = {
        "name": "liver_017",
        "patient": "17",
        "channels": (ChannelFile(write(tmp_path / "a.nii.gz", image())),),
    }
    return CaseFiles(**(files | changes))


def test_channels_label_map_and_mask_are_read_together(tmp_path):
    label_map = np.zeros((4, 5, 6), np.uint8)
    label_map[1, 2, 3] = 205
    mask = np.full((4, 5, 6), 0.99999997, np.float32)
    mask[0] = 0
    case = read_case(
        listed(
            tmp_path,
            channels=(
                ChannelFile(write(tmp_path / "a.nii.gz", image())),
                ChannelFile(write(tmp_path / "b.nrrd", image(100))),
            ),
            label_map=write(tmp_path / "l.mha", label_map),
            mask=write(tmp_path / "m.nii.gz", mask),
        )
    )
    np.testing.assert_array_equal(case.image, [image(), image(100)])
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.label_map, label_map)
    assert case.label_map.dtype == np.int32
    assert case.mask.dtype == np.bool_
    assert case.mask.sum() == 3 * 5 * 6
    assert (case.name, case.path) == ("liver_017", tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(case.header.get_best_affine(), AFFINE)


def test_a_single_file_is_a_case_named_after_it(tmp_path):
    path = write(tmp_path / "scan.nii.gz", image())
    for files in (path, str(path), [path]):
        case = read_case(files)
        assert case.name == "scan"
        assert case.label_map is None
        np.testing.assert_array_equal(case.image[0], image())
    assert read_case(path, name="other").name == "other"


def test_every_channel_of_a_4d_file_is_taken(tmp_path):
    import nibabel as nib

    array = np.stack([image(), image(50)], axis=-1)
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "a.nii")
    np.testing.assert_array_equal(
        read_case(tmp_path / "a.nii").image, [image(), image(50)]
    )


def test_no_file_is_no_case():
    with pytest.raises(CaseError, match="at least one image file"):
        read_case([])


def test_label_map_of_another_shape_is_refused_by_name(tmp_path):
    path = write(tmp_path / "l.nii.gz", np.zeros((4, 5, 7), np.uint8))
    with pytest.raises(
        CaseError,
        match="case liver_017: image is 4×5×6 but label map is 4×5×7; both must share",  # noqa: RUF001
    ):
        read_case(listed(tmp_path, label_map=path))


def test_label_map_elsewhere_in_the_world_is_refused(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 0.5
    path = write(tmp_path / "l.nii.gz", np.zeros((4, 5, 6), np.uint8), moved)
    with pytest.raises(CaseError, match=r"label map lie up to 0\.50 voxels apart"):
        read_case(listed(tmp_path, label_map=path))


def test_mask_and_second_channel_on_another_grid_are_refused(tmp_path):
    other = write(tmp_path / "o.nii.gz", np.ones((4, 5, 7), np.float32))
    with pytest.raises(CaseError, match=r"image is .* but mask is"):
        read_case(listed(tmp_path, mask=other))
    first = ChannelFile(write(tmp_path / "a.nii.gz", image()))
    with pytest.raises(CaseError, match=r"channel 0 is .* but channel 1 is"):
        read_case(listed(tmp_path, channels=(first, ChannelFile(other))))


def test_a_channel_on_another_grid_is_refused_with_the_setting_that_resamples_it(
    tmp_path,
):
    with pytest.raises(
        CaseError,
        match=r'channel 1 lie up to 0\.50 voxels .*"--set preprocessing\.resample_chan',
    ):
        read_case(two_channels(tmp_path, image(), moved(0.5)))


def moved(i=0.0, j=0.0, k=0.0):
    """Affine of a volume shifted by parts of its voxels."""
    affine = AFFINE.copy()
    affine[:3, 3] += affine[:3, :3] @ [i, j, k]
    return affine


def two_channels(tmp_path, second, affine):
    return listed(
        tmp_path,
        channels=(
            ChannelFile(write(tmp_path / "a.nii.gz", image())),
            ChannelFile(write(tmp_path / "b.nii.gz", second, affine)),
        ),
    )


def test_a_channel_half_a_voxel_away_is_interpolated_linearly(tmp_path):
    second = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    files = two_channels(tmp_path, second, moved(j=0.5))

    case = read_case(files, resample_channels=True)

    np.testing.assert_array_equal(case.image[0], image())
    means = (second[:, :-1] + second[:, 1:]) / 2
    np.testing.assert_allclose(case.image[1][:, 1:], means, atol=1e-6)
    # Half a voxel before the first centre is still inside the first voxel.
    np.testing.assert_allclose(case.image[1][:, 0], second[:, 0], atol=1e-6)


def test_where_a_channel_does_not_reach_it_has_its_lowest_value(tmp_path):
    second = image(7)[:2]
    case = read_case(two_channels(tmp_path, second, AFFINE), resample_channels=True)
    np.testing.assert_allclose(case.image[1][:2], second)
    np.testing.assert_array_equal(case.image[1][2:], 7)


def test_a_coarse_channel_along_other_axes_is_resampled_anisotropically(tmp_path):
    # A plane is what linear interpolation gives back exactly: 1 x + 10 y + 100 z in mm.
    coarse = np.array(
        [[0, 0, -2.0, 7], [4.0, 0, 0, -4], [0, -6.0, 0, 24], [0, 0, 0, 1]]
    )
    indices = np.indices((6, 6, 6)).reshape(3, -1)
    points = coarse[:3, :3] @ indices + coarse[:3, 3:]
    plane = (np.array([1.0, 10.0, 100.0]) @ points).reshape(6, 6, 6)
    files = two_channels(tmp_path, plane.astype(np.float32), coarse)

    case = read_case(files, resample_channels=True)

    i, j, k = np.indices((4, 5, 6))
    np.testing.assert_allclose(case.image[1], i + 10 * 2 * j + 100 * 3 * k, rtol=1e-5)


def test_a_channel_within_a_hundredth_of_a_voxel_is_not_resampled(tmp_path):
    second = image(3)
    case = read_case(
        two_channels(tmp_path, second, moved(0.009)), resample_channels=True
    )
    np.testing.assert_array_equal(case.image[1], second)


def test_nan_does_not_spread_by_resampling_but_is_refused(tmp_path):
    second = image()
    second[1, 1, 1] = np.nan
    with pytest.raises(CaseError, match="channel 1 has 1 voxels that are NaN"):
        read_case(two_channels(tmp_path, second, moved(0.5)), resample_channels=True)


def test_label_maps_are_never_resampled(tmp_path):
    path = write(tmp_path / "l.nii.gz", np.zeros((4, 5, 6), np.uint8), moved(0.5))
    with pytest.raises(CaseError, match="resample the label map onto the grid"):
        read_case(listed(tmp_path, label_map=path), resample_channels=True)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted(tmp_path, wrong):
    array = image()
    array[0, 0, :3] = wrong
    files = listed(tmp_path, channels=(ChannelFile(write(tmp_path / "a.nii", array)),))
    with pytest.raises(CaseError, match="case liver_017: channel 0 has 3 voxels"):
        read_case(files)


def test_label_values_almost_integer_are_rounded():
    array = np.array([0.99999997, 2.0004, -1.0, 0.0], np.float64)
    assert integer_label_map(array).tolist() == [1, 2, -1, 0]


@pytest.mark.parametrize("wrong", [0.5, 1.01, np.nan, np.inf])
def test_label_values_between_integers_are_refused(wrong):
    with pytest.raises(CaseError, match="1 voxels that are not integers"):
        integer_label_map(np.array([0.0, wrong, 1.0]))


def test_label_values_beyond_32_bits_are_refused():
    with pytest.raises(CaseError, match="32-bit"):
        integer_label_map(np.array([0, 2**31]))


@given(
    npst.arrays(
        np.int32,
        npst.array_shapes(max_dims=3, min_side=0, max_side=6),
        elements=st.integers(-5, 5) | st.sampled_from([-(2**31), 2**31 - 1]),
    )
)
def test_present_labels_are_the_sorted_distinct_values(array):
    assert present_labels(array) == tuple(np.unique(array).tolist())


def test_a_weight_map_is_read_as_stored(tmp_path):
    weights = image() / 7
    path = write(tmp_path / "w.nii.gz", weights)
    case = read_case(listed(tmp_path, weight_map=path))
    np.testing.assert_array_equal(case.weight_map, weights)
    assert case.weight_map.dtype == np.float32
    assert read_case(listed(tmp_path)).weight_map is None


def test_a_weight_map_of_whole_numbers_is_read_as_weights(tmp_path):
    path = write(tmp_path / "w.nii.gz", np.full((4, 5, 6), 3, np.uint8))
    case = read_case(listed(tmp_path, weight_map=path))
    assert case.weight_map.dtype == np.float32
    assert (case.weight_map == 3).all()


def with_a_voxel(value):
    weights = np.ones((4, 5, 6), np.float64)
    weights[1, 2, 3] = value
    return weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (with_a_voxel(-0.5), "1 voxels below 0, the lowest -0.5; weights are 0 or"),
        (with_a_voxel(-np.inf), "1 voxels below 0, the lowest -inf; weights are 0"),
        (with_a_voxel(np.nan), "1 voxels that are NaN; give every voxel a weight, 0"),
        (with_a_voxel(np.inf), r"1 voxels above 1e\+20, of which sums are no number"),
        (with_a_voxel(1e300), r"1 voxels above 1e\+20, .*; divide all weights"),
        # Two hundred of them still have a sum in 32 bits, a patch does not.
        (with_a_voxel(1e37), r"1 voxels above 1e\+20, .*; divide all weights"),
        (np.zeros((4, 5, 6), np.float32), "is 0 everywhere; give some voxels"),
    ],
)
def test_what_cannot_be_weights_is_refused_by_name(tmp_path, weights, message):
    path = write(tmp_path / "w.nii.gz", weights)
    with pytest.raises(CaseError, match=f"case liver_017: weight map .*{message}"):
        read_case(listed(tmp_path, weight_map=path))


def test_a_patch_of_the_largest_weights_has_a_finite_loss(tmp_path):
    weights = np.full((4, 5, 6), LARGEST_WEIGHT)
    path = write(tmp_path / "w.nii.gz", weights)
    case = read_case(listed(tmp_path, weight_map=path))
    logits = torch.tensor([50.0, -50.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 4, 5, 6)

    loss = cross_entropy(
        logits,
        torch.ones(1, 4, 5, 6, dtype=torch.uint8),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[False, True]]),
        class_weights=[1.0, 1000.0],
        voxel_weights=torch.from_numpy(case.weight_map)[None],
    )

    assert loss.item() == pytest.approx(100)


def test_a_weight_map_on_another_grid_is_refused_with_the_remedy(tmp_path):
    path = write(tmp_path / "w.nii.gz", np.ones((4, 5, 7), np.float32))
    with pytest.raises(
        CaseError,
        match=r"case liver_017: image is .* but weight map is .*; both must share one "
        "grid: resample the weight map onto the grid of the image",
    ):
        read_case(listed(tmp_path, weight_map=path))
