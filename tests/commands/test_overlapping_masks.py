"""Masks that lie over one another, from their files to a measured prediction."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import foveal
from foveal.cli.main import app
from foveal.errors import CaseError

AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])
SMALL = (
    "network.features=[8,16]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[24,24,16]",
    "optimiser.learning_rate=1e-2",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "training.threads=1",
    "splits.folds=3",
)


def write_case(folder, number, structures=("organ", "lesion")):
    """An organ of about 500 voxels with a brighter lesion in it."""
    random = np.random.default_rng(number)
    places = np.indices((24, 24, 16)).astype(float)
    middle = np.array([12, 12, 8]) + random.uniform(-2, 2, 3)
    organ, lesion = (
        sum((axis - at) ** 2 for axis, at in zip(places, centre, strict=True))
        < radius**2
        for centre, radius in ((middle, 7), (middle + 1.5, 4))
    )
    image = random.normal(0, 10, organ.shape) + 80 * organ + 120 * lesion
    (folder / "segmentations").mkdir(parents=True)
    nib.save(nib.Nifti1Image(image.astype(np.float32), AFFINE), folder / "mr.nii.gz")
    for name, mask in (("organ", organ), ("lesion", lesion)):
        if name in structures:
            stored = nib.Nifti1Image(mask.astype(np.uint8), AFFINE)
            nib.save(stored, folder / "segmentations" / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five cases; in the last one nobody drew the lesion."""
    root = tmp_path_factory.mktemp("masks") / "dataset"
    for number in range(4):
        write_case(root / f"case_{number}", number)
    write_case(root / "case_4", 4, structures=("organ",))
    return root


@pytest.fixture(scope="module")
def run(dataset):
    out = dataset.parent / "run"
    store = dataset.parent / "store"
    options = [*SMALL, f"store={store}"]
    return foveal.train(dataset, out, steps=80, options=options)


def test_every_combination_is_a_label_and_structures_are_unions(run):
    labels = foveal.load_model(run).models[0]
    assert labels.structures == {"lesion": (2,), "organ": (1, 2)}
    assert labels.separate_masks


def test_overlapping_structures_are_learned_and_measured_each(run):
    rows = json.loads((run / "validation" / "metrics.json").read_text())["rows"]
    dice = {
        (row["case"], row["structure"]): row["value"]
        for row in rows
        if row["metric"] == "dice"
    }
    assert {structure for _, structure in dice} == {"lesion", "organ"}
    assert ("case_4", "lesion") not in dice
    assert min(dice.values()) > 0.7


def test_a_prediction_is_one_mask_per_structure_and_the_lesion_lies_in_the_organ(
    run, dataset, tmp_path
):
    (outcome,) = foveal.predict(
        run, dataset / "case_0" / "mr.nii.gz", tmp_path / "out", probabilities=True
    )
    assert [output.file for output in outcome.outputs] == [
        "probabilities/mr/lesion.nii.gz",
        "probabilities/mr/organ.nii.gz",
        "mr/lesion.nii.gz",
        "mr/organ.nii.gz",
    ]
    read = {
        output.file: nib.load(tmp_path / "out" / output.file).get_fdata()
        for output in outcome.outputs
    }
    lesion, organ = read["mr/lesion.nii.gz"] > 0, read["mr/organ.nii.gz"] > 0
    assert lesion.sum() > 100
    assert (lesion & ~organ).sum() == 0
    # A structure is where its probability, the sum over its labels, is above one half.
    for name, mask in (("lesion", lesion), ("organ", organ)):
        probability = read[f"probabilities/mr/{name}.nii.gz"]
        sure = np.abs(probability - 0.5) > 1e-4
        np.testing.assert_array_equal((probability > 0.5)[sure], mask[sure])


def test_masks_with_their_probabilities_beside_them_are_measured(
    run, dataset, tmp_path
):
    for number in range(2):
        shutil.copy(dataset / f"case_{number}" / "mr.nii.gz", tmp_path)
        (tmp_path / "mr.nii.gz").rename(tmp_path / f"case_{number}.nii.gz")
    out = tmp_path / "out"
    foveal.predict(run, tmp_path, out, probabilities=True)
    assert foveal.evaluate(out, dataset).cases == ("case_0", "case_1")


def test_masks_cannot_go_into_one_file(run, dataset, tmp_path):
    scan = dataset / "case_0" / "mr.nii.gz"
    result = CliRunner().invoke(
        app, ["predict", str(run), str(scan), str(tmp_path / "out.nii.gz")]
    )
    assert result.exit_code == 1
    assert "one mask per structure" in " ".join(result.output.split())


def test_masks_that_are_there_are_not_replaced(run, dataset, tmp_path):
    (tmp_path / "mr").mkdir()
    own = tmp_path / "mr" / "organ.nii.gz"
    own.write_bytes(b"drawn by hand")
    with pytest.raises(CaseError, match=r"holds 1 files.*organ.nii.gz"):
        foveal.predict(run, dataset / "case_0" / "mr.nii.gz", tmp_path)
    assert own.read_bytes() == b"drawn by hand"


def test_a_mask_that_was_lost_is_made_again(run, dataset, tmp_path):
    scan = dataset / "case_0" / "mr.nii.gz"
    foveal.predict(run, scan, tmp_path)
    organ = tmp_path / "mr" / "organ.nii.gz"
    before = organ.read_bytes()
    organ.unlink()
    foveal.predict(run, scan, tmp_path, resume=True)
    assert organ.read_bytes() == before


def test_the_report_and_the_model_file_show_structures(run, tmp_path):
    page = foveal.report(run).read_text()
    assert "lesion" in page
    card = foveal.export(run, tmp_path / "organ.foveal")
    assert card["structures"] == {"lesion": [3], "organ": [2, 3]}
    assert card["one_mask_per_structure"]
