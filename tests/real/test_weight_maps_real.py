"""Training on real scans of which some voxels count more."""

import nibabel as nib
import numpy as np
import pytest
from conftest import data_folder
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.engine.log import read_log
from foveal.io.datasets import read_dataset

SMALL = (
    "network.features=[4,8]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=2",
    "training.threads=1",
    "training.device=cpu",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "splits.folds=2",
    "optimiser.learning_rate=1e-2",
)
WEIGHTED = "loss_options.cross_entropy.voxel_weights=true"


def foveal(*words):
    """Run a command in this process; returns its exit status and all it printed."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def trained(table, out, store, *settings):
    """Logged cross entropy of two steps."""
    chosen = [f"store={store}", *SMALL, *settings]
    status, text = foveal(
        "train", table, "--out", out, "--steps", 2,
        *(word for setting in chosen for word in ("--set", setting)),
    )  # fmt: skip
    assert status == 0, text
    rows = [row for row in read_log(out / "log.jsonl") if row["kind"] == "step"]
    return [row["terms"]["cross_entropy"] for row in rows]


def table_of(cases, path, weight_maps):
    lines = ["case,channels,label_map,weight_map"]
    lines += [
        f"{case.name},{case.channels[0].path},{case.label_map},"
        f"{weight_maps.get(case.name, '')}"
        for case in cases
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cases():
    return read_dataset(data_folder("hippocampus")).labelled[:4]


def weight_maps(cases, folder, of_labels):
    """Files of weights, made of the label map, on its grid."""
    folder.mkdir(exist_ok=True)
    found = {}
    for case in cases:
        label_map = nib.load(case.label_map)
        weights = of_labels(np.asarray(label_map.dataobj)).astype(np.float32)
        found[case.name] = folder / f"{case.name}_weights.nii.gz"
        nib.save(nib.Nifti1Image(weights, label_map.affine), found[case.name])
    return found


def test_the_cross_entropy_of_hippocampi_is_weighed_by_their_weight_maps(
    cases, tmp_path
):
    store = tmp_path / "store"
    maps = weight_maps(cases, tmp_path / "maps", lambda labels: 0.1 + (labels > 0))
    # Of the last case nothing is said, so all of it counts once.
    del maps[cases[-1].name]
    table = table_of(cases, tmp_path / "weighted.csv", maps)

    plain = trained(table, tmp_path / "plain", store)
    weighted = trained(table, tmp_path / "weighted", store, WEIGHTED)

    # The same patches and weights of the network, so all that differs is the mean.
    assert abs(weighted[0] - plain[0]) > 0.02
    assert np.isfinite(weighted).all()


def test_a_weight_map_on_another_grid_is_found_before_training(cases, tmp_path):
    maps = weight_maps(cases, tmp_path, lambda labels: labels[:-1] + 1)
    table = table_of(cases, tmp_path / "table.csv", maps)

    status, text = foveal("check", table)
    assert status == 1
    assert "weight map on another grid" in text or "but weight map is" in text
    status, text = foveal("train", table, "--out", tmp_path / "run", "--steps", 2)
    assert status == 1
    assert "resample the weight map onto the grid of the image" in text
    assert cases[0].name in text
