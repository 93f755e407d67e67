"""The whole chain on a few real scans of each kind: plan, train, predict, evaluate."""

import json

import nibabel as nib
import numpy as np
import pytest
import tomli_w
from conftest import data_folder

import foveal
from foveal.engine.log import read_log
from foveal.settings_files import read_plan

SMALL = [
    "network.features=[8,16]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[32,32,32]",
    "splits.folds=2",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    # One validation at the end, of few patches: whole scans take time on a CPU.
    "training.validate_every_steps=6",
    "prediction.overlap_fraction=0.1",
]


def table_of(cases, folder, **entries):
    """A TOML table of a few cases."""
    listed = [
        {
            "case": case.name,
            "channels": [str(channel.path) for channel in case.channels],
            "label_map": str(case.label_map),
            **({"mask": str(case.mask)} if case.mask else {}),
            **(
                {}
                if case.annotated is None
                else {"annotated_labels": list(case.annotated)}
            ),
        }
        for case in cases
    ]
    path = folder / "table.toml"
    path.write_text(tomli_w.dumps({"cases": listed, **entries}))
    return path


@pytest.fixture(scope="module")
def headneck_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("headneck")
    dataset = foveal.read_dataset(data_folder("headneck_ct"))
    partial = [case for case in dataset.cases if len(case.annotated) < 7][:4]
    table = table_of(
        partial,
        folder,
        name="HeadNeck",
        channel_names=["CT"],
        labels=dataset.label_values,
    )
    run = foveal.train(
        table,
        folder / "run",
        steps=6,
        options=[*SMALL, f"store={folder / 'store'}"],
    )
    return table, run


def test_partly_annotated_ct_trains_and_scores_only_what_was_annotated(headneck_run):
    table, run = headneck_run
    losses = [row["loss"] for row in read_log(run / "log.jsonl") if "loss" in row]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    annotated = {
        case.name: set(case.annotated) for case in foveal.read_dataset(table).cases
    }
    rows = json.loads((run / "validation" / "metrics.json").read_text())["rows"]
    scored = {}
    for row in rows:
        scored.setdefault(row["case"], set()).add(row["structure"])
    assert len(scored) == 2
    assert all(scored[name] == annotated[name] for name in scored)


def test_plan_of_ct_has_hounsfield_window_and_paired_parotids(headneck_run):
    _, run = headneck_run
    plan = read_plan(run / "plan.toml")
    (channel,) = plan.preprocessing.channels
    assert channel.normalisation == "ct"
    assert -1100 < channel.clip[0] < 0 < channel.clip[1] < 3500
    assert ("LeftParotid", "RightParotid") in plan.mirroring.left_right_pairs
    assert plan.mirroring.axes == (0,)


def test_prediction_lies_on_the_stored_grid_of_an_unusual_orientation(
    headneck_run, tmp_path
):
    table, run = headneck_run
    case = foveal.read_dataset(table).cases[0]
    foveal.predict([run], case.channels[0].path, tmp_path)
    image = nib.load(case.channels[0].path)
    prediction = nib.load(tmp_path / case.channels[0].path.name)
    assert nib.aff2axcodes(image.affine) == ("P", "L", "I")
    np.testing.assert_array_equal(prediction.affine, image.affine)
    assert prediction.shape == image.shape
    assert set(np.unique(np.asarray(prediction.dataobj))) <= set(range(8))


def test_two_channels_with_a_mask_train_and_predict(tmp_path):
    folder = data_folder("brats")
    cases = sorted(path for path in folder.iterdir() if path.is_dir())[:2]
    listed = [
        {
            "case": path.name,
            "channels": [str(path / "flair.nii.gz"), str(path / "t1c.nii.gz")],
            "label_map": str(path / "label.nii.gz"),
            "mask": str(path / "brainmask.nii.gz"),
        }
        for path in cases
    ]
    table = tmp_path / "brats.toml"
    table.write_text(
        tomli_w.dumps(
            {
                "name": "brats",
                "channel_names": ["flair", "t1c"],
                "labels": {"necrosis": 1, "edema": 2, "solid": 3, "enhancing": 4},
                "cases": listed,
            }
        )
    )
    run = foveal.train(
        table,
        tmp_path / "run",
        steps=2,
        options=[*SMALL, "patches.size=[64,64,64]", f"store={tmp_path / 'store'}"],
    )
    plan = read_plan(run / "plan.toml")
    assert plan.preprocessing.crop == "mask"
    assert len(plan.preprocessing.channels) == 2
    predictions = sorted((run / "validation").glob("*.nii.gz"))
    assert len(predictions) == 1
    result = foveal.evaluate(
        run / "validation", table, regions={"whole": (1, 2, 3, 4), "core": (1, 3, 4)}
    )
    structures = {row.structure for row in result.rows}
    assert structures == {"necrosis", "edema", "solid", "enhancing", "whole", "core"}
