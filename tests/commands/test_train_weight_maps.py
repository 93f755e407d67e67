"""What `foveal train` and `foveal preview` say to voxel weights that there are not."""

import pytest
from phantoms import write_ball_and_box_dataset

from foveal.commands.preview import preview
from foveal.commands.train import train
from foveal.errors import SettingsError

WEIGHTED = "loss_options.cross_entropy.voxel_weights=true"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_ball_and_box_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.mark.parametrize("fold", [0, "all"])
def test_voxel_weights_without_any_weight_map_are_refused_before_work_starts(
    dataset, tmp_path, fold
):
    with pytest.raises(
        SettingsError, match="voxel_weights is true, but no case to train on has a wei"
    ):
        train(dataset, tmp_path / "run", steps=1, fold=fold, options=[WEIGHTED])
    assert not (tmp_path / "run" / "settings.toml").exists()


def test_drawing_by_weight_maps_is_refused_if_a_case_has_none(dataset, tmp_path):
    with pytest.raises(
        SettingsError,
        match=r"weight_map, but 4 of 4 cases to train on have none, such as case_\d; l",
    ):
        train(
            dataset,
            tmp_path / "run",
            steps=1,
            options=["sampling.sampler=weight_map", "splits.folds=3"],
        )


def test_preview_refuses_them_too(dataset, tmp_path):
    with pytest.raises(SettingsError, match="no case to train on has a weight map"):
        preview(dataset, tmp_path / "preview.png", options=[WEIGHTED])
