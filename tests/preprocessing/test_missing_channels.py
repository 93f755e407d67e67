"""A channel that a case lacks is a constant, from the file to the network's tiles."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.case import Case, CaseFiles, ChannelFile
from foveal.engine.loading import read_beyond_borders
from foveal.errors import CaseError, DatasetError
from foveal.geometry import Grid
from foveal.inference.made_labels import labels_of_case
from foveal.inference.predict import stream_logits
from foveal.inference.tiling import OverlappingTiles
from foveal.io.cases import read_case, require_usable_headers
from foveal.io.datasets import read_dataset
from foveal.io.volumes import write_volume
from foveal.planning.departures import departures, look_at
from foveal.planning.fingerprint import case_fingerprint
from foveal.preprocessing.bias_field import BiasField
from foveal.preprocessing.histogram_standardisation import Landmarks
from foveal.preprocessing.intensity import IntensityRecipe
from foveal.preprocessing.pipeline import (
    PreprocessingRecipe,
    landmarks_of_case,
    preprocess_case,
)
from foveal.preprocessing.sources import FileDigests, case_content
from foveal.store.store import Store

SHAPE = (6, 7, 8)
GRID = Grid(SHAPE, np.eye(4))

HARD_TO_PLEASE = IntensityRecipe(
    "T1",
    "zscore",
    bias_field=BiasField(),
    landmarks=Landmarks((1.0, 99.0), (0.0, 100.0)),
)
RECIPE = PreprocessingRecipe(
    orientation="RAS",
    spacing_mm=(1.0, 1.0, 0.5),
    crop="nonzero",
    channels=(HARD_TO_PLEASE, IntensityRecipe("T2", "zscore")),
    label_values=(1,),
    combinations=(("organ",),),
    missing_channel_value=-4.0,
)


def second_channel():
    """A bright block in a frame of 0."""
    image = np.zeros(SHAPE, np.float32)
    block = np.random.default_rng(0).uniform(50, 99, (4, 5, 6))
    image[1:5, 1:6, 1:7] = block
    return image


def case_without_t1():
    image = np.stack([np.zeros(SHAPE, np.float32), second_channel()])
    return Case("a", image, GRID, missing_channels=(0,))


def test_a_missing_channel_is_filled_after_normalisation_and_changes_no_other():
    prepared = preprocess_case(case_without_t1(), RECIPE)

    alone = Case("a", second_channel()[None], GRID)
    expected = preprocess_case(alone, replace(RECIPE, channels=RECIPE.channels[1:]))
    assert prepared.missing_channels == {0: -4.0}
    assert prepared.image.shape == (2, 4, 5, 12)
    np.testing.assert_array_equal(prepared.image[0], -4)
    np.testing.assert_array_equal(prepared.image[1], expected.image[0])


def test_a_missing_channel_without_a_value_is_refused_with_the_setting():
    recipe = replace(RECIPE, missing_channel_value=None)
    message = r"case a: it lacks the channel\(s\) T1; .*missing_channel_value=-4"
    with pytest.raises(CaseError, match=message):
        preprocess_case(case_without_t1(), recipe)


def test_what_is_stored_depends_on_the_value_and_on_what_is_missing(tmp_path):
    values = (None, -4.0, 0.0)
    digests = {
        value: replace(RECIPE, missing_channel_value=value).digest for value in values
    }
    assert len(set(digests.values())) == len(values)
    write_volume(tmp_path / "t.nii", second_channel(), GRID)
    files = CaseFiles("a", "a", (ChannelFile(tmp_path / "t.nii"),))
    contents = [
        case_content(replace(files, missing_channels=missing), FileDigests())
        for missing in ((), (0,), (1,))
    ]
    assert contents[0] != contents[1] != contents[2]
    assert "missing_channels" not in contents[0]


def test_landmarks_are_learned_from_the_channels_that_there_are():
    found = landmarks_of_case(case_without_t1(), RECIPE, {0: (1, 99), 1: (1, 99)})
    assert list(found) == [1]


def test_grid_and_header_come_from_the_first_channel_that_there_is(tmp_path):
    path = tmp_path / "t2.nii.gz"
    grid = Grid(SHAPE, np.diag([2.0, 1.0, 1.0, 1.0]))
    write_volume(path, second_channel(), grid)
    files = CaseFiles("a", "a", (ChannelFile(path),), missing_channels=(0, 2))
    case = read_case(files)
    assert case.image.shape == (3, *SHAPE)
    assert case.grid.spacing_mm == (2.0, 1.0, 1.0)
    assert (case.path, case.missing_channels) == (path, (0, 2))
    np.testing.assert_array_equal(case.image[[0, 2]], 0)
    np.testing.assert_array_equal(case.first_channel, second_channel())


def test_channels_are_called_by_their_number_in_the_data_set(tmp_path):
    for name, length in (("b", 8), ("c", 9)):
        shape = (*SHAPE[:2], length)
        array = np.zeros(shape, np.uint8)
        write_volume(tmp_path / f"{name}.nii", array, Grid(shape, np.eye(4)))
    channels = (ChannelFile(tmp_path / "b.nii"), ChannelFile(tmp_path / "c.nii"))
    files = CaseFiles("a", "a", channels, missing_channels=(0,))
    with pytest.raises(CaseError, match=r"channel 1 is 6×7×8 but channel 2"):  # noqa: RUF001
        read_case(files)
    with pytest.raises(CaseError, match=r"channel 1 is .* but channel 2"):
        require_usable_headers(files, ("a", "b", "c"), resample_channels=False)


def table(folder, name, text):
    write_volume(folder / "t2.nii", second_channel(), GRID)
    (folder / name).write_text(text)
    return read_dataset(folder / name, find_labels=False)


def test_an_empty_cell_of_a_table_is_a_missing_channel(tmp_path):
    csv = "case,channel_t1,channel_t2\na,,t2.nii\nb,t2.nii,\nc,t2.nii,t2.nii\n"
    dataset = table(tmp_path, "t.csv", csv)
    assert dataset.channel_names == ("t1", "t2")
    assert [case.missing_channels for case in dataset.cases] == [(0,), (1,), ()]
    assert dataset.cases[0].numbered_channels == {
        1: ChannelFile(tmp_path / "t2.nii", None)
    }
    toml = '[[cases]]\ncase = "a"\nchannels = ["", "t2.nii"]\n'
    (case,) = table(tmp_path, "t.toml", toml).cases
    assert (case.missing_channels, case.num_channels) == ((0,), 2)


def test_a_case_without_any_channel_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"lack some of its channels, but not all"):
        table(tmp_path, "t.csv", "case,channel_t1,channel_t2\na,,\n")
    with pytest.raises(DatasetError, match=r"names no file; .* but not all"):
        table(tmp_path, "t.toml", '[[cases]]\ncase = "a"\nchannels = ["", ""]\n')


EVERYTHING = IntensityAugmentation(
    noise_probability=1.0,
    noise_deviation=(0.1, 0.3),
    blur_probability=1.0,
    blur_sigma_voxels=(0.5, 1.0),
    shift_probability=1.0,
    shift_deviation=0.1,
    shift_factor_deviation=0.1,
    brightness_probability=1.0,
    brightness=(0.75, 1.25),
    contrast_probability=1.0,
    contrast=(0.75, 1.25),
    low_resolution_probability=1.0,
    low_resolution=(0.5, 1.0),
    gamma_probability=1.0,
    gamma=(0.7, 1.5),
    missing_channel_value=-4.1,
)


def test_augmentation_leaves_a_missing_channel_and_draws_the_same_for_others():
    draws = torch.Generator().manual_seed(0)
    image = torch.randn(2, 2, 5, 6, 7, generator=draws)
    # As interpolation leaves a constant.
    image[0, 0] = -4.1 + 1e-6 * torch.randn(5, 6, 7, generator=draws)
    changed = EVERYTHING.apply(image, torch.Generator().manual_seed(1))
    complete = replace(EVERYTHING, missing_channel_value=None)
    expected = complete.apply(image, torch.Generator().manual_seed(1))
    assert (changed[0, 0] == torch.tensor(-4.1)).all()
    assert (changed[0, 1] == expected[0, 1]).all()
    assert (changed[1] == expected[1]).all()
    assert not torch.isclose(expected[0, 0], torch.tensor(-4.1)).all()


@pytest.fixture
def stored(tmp_path):
    prepared = preprocess_case(case_without_t1(), RECIPE)
    Store(tmp_path).write(
        "key",
        prepared.image,
        None,
        prepared.grid,
        num_classes=2,
        annotated=None,
        missing_channels=prepared.missing_channels,
    )
    return Store(tmp_path).open("key", name="a", patient="a")


@pytest.mark.parametrize(
    "window", [(slice(-3, 9),) * 3, (slice(30, 33),) * 3], ids=["across", "beyond"]
)
def test_a_missing_channel_goes_on_beyond_the_borders(stored, window):
    image, _ = read_beyond_borders(stored, window)
    assert stored.missing_channels == {0: -4.0}
    assert (image[0] == -4).all()
    assert (image[1, -1] == 0).all()


def test_tiles_beyond_the_borders_see_the_missing_channel_too(stored):
    seen = []

    def network(patches):
        seen.append(patches)
        return patches

    image = torch.from_numpy(stored.read_image([slice(0, n) for n in stored.shape]))
    tiles = OverlappingTiles((8, 8, 8), 0.5, 1)
    rows = stream_logits(
        network, image, tiles, 2, missing_channels=stored.missing_channels
    )
    torch.testing.assert_close(torch.cat(list(rows), 1), image)
    patches = torch.cat(seen)
    assert (patches[:, 0] == -4).all()
    assert (patches[:, 1, 0] == 0).all()


def test_a_case_is_labelled_by_tiles_that_see_the_missing_channel_beyond_too(stored):
    seen = []

    def network(patches):
        seen.append(patches)
        return patches

    labels_of_case(
        network,
        stored,
        OverlappingTiles((8, 8, 16), 0.5, 1),
        2,
        lambda probabilities: probabilities.argmax(0).to(torch.uint8),
    )
    patches = torch.cat(seen)
    assert (patches[:, 0] == -4).all()
    assert (patches[:, 1, 0] == 0).all()


def test_a_case_to_predict_that_lacks_a_channel_says_so_and_nothing_of_air():
    channels = list(RECIPE.channels)
    assert departures(look_at(case_without_t1()), None, channels) == [
        "channel T1 is missing: the network sees a constant instead"
    ]


def test_the_fingerprint_measures_the_body_in_a_channel_that_there_is():
    case = case_without_t1()
    label_map = np.zeros(SHAPE, np.int32)
    label_map[4, 3, 3] = 1
    found = case_fingerprint(replace(case, label_map=label_map), {"organ": (1,)})
    assert found.missing_channels == (0,)
    assert found.nonzero_shape == (4, 5, 6)
    # The body is voxels 1 to 4 of the axis; in an empty channel it would be all 6.
    assert found.structure_offsets["organ"] == pytest.approx((4 - 2.5) / 4)
