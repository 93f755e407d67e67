import pytest
from conftest import data_folder

from foveal.commands.plan import plan
from foveal.io.datasets import read_dataset
from foveal.planning.splits import make_splits


def test_hippocampus_is_covered_by_a_small_patch():
    planned = plan(
        data_folder("hippocampus"), device="cpu", threads=2, memory_gb=4.0
    ).plan

    assert planned.preprocessing.spacing_mm == (1.0, 1.0, 1.0)
    assert planned.preprocessing.crop == "none"
    assert [c.normalisation for c in planned.preprocessing.channels] == [
        "robust_zscore"
    ]
    assert planned.patches.size == (32, 48, 32)
    assert planned.patches.batch_size == 2
    assert planned.network.features == (16, 32, 64, 128)
    assert planned.mirroring.axes == (0,)


def test_head_and_neck_ct_finds_its_modality_and_its_pair():
    planned = plan(data_folder("headneck_ct"), device="cpu", threads=2, memory_gb=4.0)
    recipe = planned.plan.preprocessing

    assert recipe.spacing_mm == pytest.approx((3.906, 3.906, 2.5), abs=0.01)
    assert recipe.channels[0].normalisation == "ct"
    assert planned.plan.mirroring.left_right_pairs == (("LeftParotid", "RightParotid"),)
    assert planned.plan.mirroring.axes == (0,)
    assert any("stored as PLI" in reason for reason in planned.reasons)
    assert not any("Warning" in reason for reason in planned.reasons)


def test_tumours_on_either_side_of_brats_may_be_mirrored(tmp_path):
    folder = data_folder("brats")
    lines = [
        'channel_names = ["FLAIR", "T1c"]',
        "labels = { necrosis = 1, oedema = 2, solid = 3, enhancing = 4 }",
    ]
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        lines += [
            "[[cases]]",
            f"case = '{case.name}'",
            f"channels = ['{case / 'flair.nii.gz'}', '{case / 't1c.nii.gz'}']",
            f"label_map = '{case / 'label.nii.gz'}'",
            f"mask = '{case / 'brainmask.nii.gz'}'",
        ]
    table = tmp_path / "brats.toml"
    table.write_text("\n".join(lines), encoding="utf-8")

    planned = plan(table, device="cpu", threads=2, memory_gb=4.0).plan

    assert planned.preprocessing.crop == "mask"
    assert planned.preprocessing.spacing_mm == (1.0, 1.0, 1.0)
    assert [c.normalisation for c in planned.preprocessing.channels] == [
        "robust_zscore",
        "robust_zscore",
    ]
    assert planned.mirroring.axes == (0,)


def test_hippocampus_patients_are_divided_into_five_folds_of_forty():
    dataset = read_dataset(data_folder("hippocampus"))

    splits = make_splits(dataset.cases, 5, 12345)

    assert [len(fold.validation) for fold in splits.folds] == [40] * 5
