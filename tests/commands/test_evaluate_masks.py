"""`foveal.evaluate` on what other programs write: masks, other values, other names."""

import json

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from foveal.cli.evaluate import evaluate as evaluate_from_command_line
from foveal.commands.evaluate import evaluate
from foveal.errors import CaseError, SettingsError
from foveal.geometry import Grid
from foveal.io.volumes import write_volume

GRID = Grid((6, 4, 4), np.diag([1.0, 1.0, 2.0, 1.0]))


def bar(length, row=0):
    mask = np.zeros(GRID.shape, np.int16)
    mask[:length, row, 1] = 1
    return mask


def write_masks(folder, **masks):
    """A folder per case: ``write_masks(folder / "a", liver=bar(3))``."""
    for name, mask in masks.items():
        write_volume(folder / f"{name}.nii.gz", mask, GRID)


def write_dataset(root, labels, references):
    for case, label_map in references.items():
        write_volume(root / "imagesTr" / f"{case}_0000.nii.gz", 0 * label_map, GRID)
        write_volume(root / "labelsTr" / f"{case}.nii.gz", label_map, GRID)
    description = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    text = json.dumps(description | {"labels": labels, "numTraining": len(references)})
    (root / "dataset.json").write_text(text)
    return root


def dice(evaluation, case="a"):
    return {
        row.structure: row.value
        for row in evaluation.rows
        if row.metric == "dice" and row.case == case
    }


@pytest.fixture
def dataset(tmp_path):
    """Liver of 4 voxels, spleen of 2."""
    labels = {"background": 0, "liver": 7, "spleen": 300}
    reference = 7 * bar(4) + 300 * bar(2, row=2)
    return write_dataset(tmp_path / "d", labels, {"a": reference})


def test_masks_per_structure_are_measured_by_their_names(dataset, tmp_path):
    write_masks(tmp_path / "p" / "a", liver=bar(2), spleen=bar(2, row=2), aorta=bar(1))
    evaluation = evaluate(tmp_path / "p", dataset)
    assert dice(evaluation) == {"liver": pytest.approx(4 / 6), "spleen": 1}
    assert evaluation.notes == (
        "Not measured, as in no structure: aorta of the predictions.",
    )


def test_mask_that_reads_just_below_one_is_inside(dataset, tmp_path):
    almost = bar(4).astype(np.float32) * 0.99999997
    write_masks(tmp_path / "p" / "a", liver=almost, spleen=bar(2, row=2))
    assert dice(evaluate(tmp_path / "p", dataset))["liver"] == 1


def test_missing_mask_is_refused_with_what_there_is(dataset, tmp_path):
    write_masks(tmp_path / "p" / "a", Leber=bar(4), spleen=bar(2, row=2))
    with pytest.raises(
        CaseError,
        match=r'case a: .* no mask "liver" but Leber, spleen; .*--prediction-labels',
    ):
        evaluate(tmp_path / "p", dataset)


def test_masks_of_other_names_are_named_and_united(dataset, tmp_path):
    write_masks(
        tmp_path / "p" / "a",
        **{"left-lobe": bar(1), "right-lobe": bar(4) - bar(1), "spleen": bar(1, row=2)},
    )
    lobes = {"liver": ("left-lobe", "right-lobe")}
    evaluation = evaluate(tmp_path / "p", dataset, prediction_labels=lobes)
    assert dice(evaluation) == {"liver": 1, "spleen": pytest.approx(2 / 3)}


def test_values_of_another_program_are_named(dataset, tmp_path):
    consecutive = bar(4) + 2 * bar(2, row=2)
    write_volume(tmp_path / "p" / "a.nii.gz", consecutive, GRID)
    evaluation = evaluate(
        tmp_path / "p", dataset, prediction_labels={"liver": [1], "spleen": [2]}
    )
    assert dice(evaluation) == {"liver": 1, "spleen": 1}
    assert evaluation.notes == ()


def test_regions_follow_the_labels_of_the_predictions(dataset, tmp_path):
    consecutive = bar(4) + 2 * bar(2, row=2)
    write_volume(tmp_path / "p" / "a.nii.gz", consecutive, GRID)
    labels = {"liver": [1], "spleen": [2]}
    evaluation = evaluate(
        tmp_path / "p", dataset, regions={"both": (7, 300)}, prediction_labels=labels
    )
    assert dice(evaluation)["both"] == 1
    write_masks(tmp_path / "m" / "a", liver=bar(4), spleen=bar(2, row=2))
    evaluation = evaluate(tmp_path / "m", dataset, regions={"both": (7, 300)})
    assert dice(evaluation)["both"] == 1


def test_structure_that_is_not_measured_cannot_be_named(dataset, tmp_path):
    write_masks(tmp_path / "p" / "a", liver=bar(4), spleen=bar(2, row=2))
    with pytest.raises(
        SettingsError, match="name lever, but what is measured is liver"
    ):
        evaluate(tmp_path / "p", dataset, prediction_labels={"lever": ["liver"]})


def test_two_raters_who_drew_masks_are_compared_where_the_second_drew(tmp_path):
    for case in ("a", "b"):
        write_masks(tmp_path / "one" / case, liver=bar(2), spleen=bar(1))
    write_masks(tmp_path / "two" / "a", liver=bar(2))
    write_masks(tmp_path / "two" / "b", liver=bar(2), spleen=bar(1))
    evaluation = evaluate(tmp_path / "one", tmp_path / "two")
    assert dice(evaluation) == {"liver": 1}
    assert dice(evaluation, "b") == {"liver": 1, "spleen": 1}


def test_overlapping_masks_keep_their_own_voxels(tmp_path):
    write_masks(tmp_path / "p" / "a", organ=bar(5), tumour=bar(2))
    write_masks(tmp_path / "r" / "a", organ=bar(5), tumour=bar(3))
    found = dice(evaluate(tmp_path / "p", tmp_path / "r"))
    assert found == {"organ": 1, "tumour": pytest.approx(0.8)}


def test_masks_on_different_grids_are_refused(dataset, tmp_path):
    write_masks(tmp_path / "p" / "a", liver=bar(4))
    smaller = Grid((5, 4, 4), GRID.affine)
    write_volume(tmp_path / "p" / "a" / "spleen.nii.gz", bar(2, row=2)[:5], smaller)
    with pytest.raises(CaseError, match=r"case a: other masks is .* mask spleen"):
        evaluate(tmp_path / "p", dataset)


def test_prediction_on_another_grid_names_the_remedy(dataset, tmp_path):
    coarse = Grid((3, 4, 4), np.diag([2.0, 1.0, 2.0, 1.0]))
    write_volume(tmp_path / "p" / "a.nii.gz", bar(4)[::2], coarse)
    with pytest.raises(
        CaseError, match=r"resample the prediction .*, by nearest neighbour"
    ):
        evaluate(tmp_path / "p", dataset)


def test_label_that_no_reference_has_is_noted(tmp_path):
    write_masks(tmp_path / "p" / "a", liver=bar(4))
    write_masks(tmp_path / "r" / "a", liver=bar(4))
    labels = {"liver": "liver", "spleen": "spleen"}
    evaluation = evaluate(tmp_path / "p", tmp_path / "r", labels=labels)
    assert dice(evaluation) == {"liver": 1}
    assert evaluation.notes == (
        "Structure spleen was measured in no case: no reference has it drawn.",
    )


# ------------------------------------------------------------------ data sets


def test_masks_of_a_data_set_may_overlap(tmp_path):
    folder = tmp_path / "d"
    write_volume(folder / "image.nii.gz", 0 * bar(1), GRID)
    write_masks(folder, organ=bar(5), tumour=bar(2))
    (folder / "cases.csv").write_text(
        "case,channels,structure_organ,structure_tumour\n"
        "a,image.nii.gz,organ.nii.gz,tumour.nii.gz\n"
    )
    write_masks(tmp_path / "p" / "a", organ=bar(5), tumour=bar(1))
    evaluation = evaluate(tmp_path / "p", folder / "cases.csv")
    assert dice(evaluation) == {"organ": 1, "tumour": pytest.approx(2 / 3)}


def test_regions_of_a_data_set_are_what_is_measured(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    reference = bar(4) + bar(2)
    root = write_dataset(tmp_path / "d", labels, {"a": reference})
    write_volume(tmp_path / "p" / "a.nii.gz", bar(4) + bar(1), GRID)
    found = dice(evaluate(tmp_path / "p", root))
    assert found == {"whole": 1, "core": pytest.approx(2 / 3)}
    # As masks the regions overlap.
    write_masks(tmp_path / "m" / "a", whole=bar(4), core=bar(2))
    assert dice(evaluate(tmp_path / "m", root)) == {"whole": 1, "core": 1}


def run(*arguments):
    app = Typer()
    app.command()(evaluate_from_command_line)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_names_labels_of_both_sides(tmp_path):
    write_volume(tmp_path / "p" / "a.nii.gz", 3 * bar(4) + bar(1, row=1), GRID)
    write_volume(tmp_path / "r" / "a.nii.gz", 2 * bar(4), GRID)
    result = run(
        *(tmp_path / "p", tmp_path / "r", "--labels", "liver=2"),
        *("--prediction-labels", "liver=1,3", "--json"),
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert {row["structure"] for row in rows} == {"liver"}
    assert rows[0]["value"] == pytest.approx(8 / 9)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--labels", "liver"),
        ("--labels", "liver=1,2"),
        ("--prediction-labels", "liver="),
        ("--prediction-labels", "=1"),
    ],
)
def test_command_refuses_labels_without_sense(tmp_path, option, text):
    result = run(tmp_path, tmp_path, option, text)
    assert result.exit_code == 2
    assert option in result.output
