import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from foveal.cli.evaluate import evaluate as evaluate_from_command_line
from foveal.commands.evaluate import evaluate
from foveal.errors import CaseError, DatasetError, SettingsError
from foveal.geometry import Grid
from foveal.io.volumes import write_volume
from foveal.metrics.classes import ClassCounts
from foveal.metrics.evaluation import joined, read_evaluation

GRID = Grid((6, 4, 4), np.diag([1.0, 1.0, 2.0, 1.0]))


def bars(**lengths_by_value):
    """Label map with a bar of voxels along i for each ``v<value>=<length>``."""
    label_map = np.zeros(GRID.shape, dtype=np.int16)
    for row, (value, length) in enumerate(lengths_by_value.items()):
        label_map[:length, row, 1] = int(value.removeprefix("v"))
    return label_map


def write(folder, grid=GRID, ending=".nii.gz", **label_maps):
    for case, label_map in label_maps.items():
        write_volume(folder / f"{case}{ending}", label_map, grid)
    return folder


def write_dataset(root, labels, *, annotated=None, **label_maps):
    """Decathlon folder whose images are zeros."""
    write(root / "imagesTr", **{case: 0 * bars() for case in label_maps})
    write(root / "labelsTr", **label_maps)
    training = [
        {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
        | ({"annotated_labels": annotated[case]} if annotated else {})
        for case in label_maps
    ]
    description = {"name": "bars", "modality": {"0": "CT"}, "labels": labels}
    text = json.dumps(description | {"training": training})
    (root / "dataset.json").write_text(text)
    return root


def value(evaluation, case, structure, metric):
    (found,) = [
        row.value
        for row in evaluation.rows
        if (row.case, row.structure, row.metric) == (case, structure, metric)
    ]
    return found


def structures_of(evaluation, case):
    return list(dict.fromkeys(r.structure for r in evaluation.rows if r.case == case))


@pytest.fixture
def two_folders(tmp_path):
    """Cases a (label 7 half found) and b (label 7 right, label 3 in the reference)."""
    predictions = write(tmp_path / "predicted", a=bars(v7=2), b=bars(v7=4))
    references = write(tmp_path / "expected", a=bars(v7=4), b=bars(v7=4, v3=1))
    return predictions, references


# ------------------------------------------------------------------ two folders


def test_values_of_two_folders_by_hand(two_folders):
    evaluation = evaluate(*two_folders)
    assert structures_of(evaluation, "a") == ["3", "7"]
    assert value(evaluation, "a", "7", "dice") == pytest.approx(4 / 6)
    assert value(evaluation, "a", "7", "sensitivity") == pytest.approx(0.5)
    assert value(evaluation, "a", "7", "hd_mm") == pytest.approx(2.0)
    assert value(evaluation, "a", "7", "prediction_volume_ml") == pytest.approx(0.004)
    assert value(evaluation, "a", "7", "reference_voxels") == 4
    assert math.isnan(value(evaluation, "a", "3", "dice"))
    assert value(evaluation, "b", "3", "dice") == 0
    # The diagonal of 6 x 4 x 8 mm.
    assert value(evaluation, "b", "3", "hd95_mm") == pytest.approx(math.sqrt(116))
    assert evaluation.mean("7", "dice") == pytest.approx((4 / 6 + 1) / 2)
    assert evaluation.mean("3", "dice") == 0
    assert evaluation.worst(1)[0].case == "b"


def test_all_voxels_together_by_hand(two_folders):
    evaluation = evaluate(*two_folders)
    # Two cases of 96 voxels; 8 of label 7, of which 6 are found, and 1 of label 3.
    assert evaluation.classes == {
        "background": ClassCounts(reference=183, predicted=186, agreed=183),
        "3": ClassCounts(reference=1, predicted=0, agreed=0),
        "7": ClassCounts(reference=8, predicted=6, agreed=6),
    }
    scores = evaluation.class_scores
    assert scores["pixel_accuracy"] == pytest.approx(189 / 192)
    assert scores["mean_iou"] == pytest.approx((183 / 186 + 0 + 6 / 8) / 3)
    again = read_evaluation_of(evaluation)
    assert again.class_scores == scores
    assert joined({"both": again}).classes == evaluation.classes


def read_evaluation_of(evaluation):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.json"
        path.write_text(evaluation.to_json())
        return read_evaluation(path)


def test_cases_are_matched_by_name_across_formats(tmp_path):
    predictions = write(tmp_path / "p", ending=".nrrd", a=bars(v1=1), b=bars(v1=6))
    references = write(tmp_path / "r", ending=".nii", b=bars(v1=6), a=bars(v1=1))
    (predictions / "plan.toml").write_text("")
    evaluation = evaluate(predictions, references)
    assert [row.value for row in evaluation.rows if row.metric == "dice"] == [1, 1]


def test_prediction_without_reference_is_refused_and_both_sides_are_listed(tmp_path):
    predictions = write(tmp_path / "p", a=bars(v1=1), b=bars(v1=1))
    references = write(tmp_path / "r", a=bars(v1=1), c=bars(v1=1))
    with pytest.raises(DatasetError, match=r"for b; no prediction for c;"):
        evaluate(predictions, references)


def test_missing_predictions_are_refused_with_the_ways_out(tmp_path):
    predictions = write(tmp_path / "p", case0=bars(v1=1))
    references = write(tmp_path / "r", **{f"case{n}": bars(v1=1) for n in range(8)})
    with pytest.raises(
        DatasetError,
        match=r"every prediction has a reference.*case1, case2, case3, case4, case5 "
        r"and 2 more; predict these cases, or.*data set",
    ):
        evaluate(predictions, references)


def test_two_files_of_one_case_are_refused(two_folders):
    predictions, references = two_folders
    write(predictions, ending=".mha", a=bars(v7=4))
    with pytest.raises(DatasetError, match="both belong to case a; remove one"):
        evaluate(predictions, references)


def test_folder_without_label_maps_is_refused(two_folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no label maps"):
        evaluate(tmp_path / "empty", two_folders[1])


def test_absent_path_is_refused(two_folders, tmp_path):
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        evaluate(tmp_path / "nowhere", two_folders[1])


def test_references_without_any_label_are_refused(tmp_path):
    predictions = write(tmp_path / "p", a=bars(v1=1))
    references = write(tmp_path / "r", a=bars())
    with pytest.raises(DatasetError, match="has a labelled voxel"):
        evaluate(predictions, references)


def test_grids_that_differ_are_refused_with_the_case(tmp_path):
    shifted = GRID.affine.copy()
    shifted[0, 3] += 0.5
    predictions = write(tmp_path / "p", Grid(GRID.shape, shifted), a=bars(v1=1))
    references = write(tmp_path / "r", a=bars(v1=1))
    with pytest.raises(CaseError, match=r"case a: .* 0\.50 voxels apart"):
        evaluate(predictions, references)


def test_damaged_file_is_refused_with_the_case(two_folders):
    predictions, references = two_folders
    file = predictions / "b.nii.gz"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CaseError, match=r"case b: .*cannot be read"):
        evaluate(predictions, references)


def test_value_that_only_predictions_have_is_noted(tmp_path):
    predictions = write(tmp_path / "p", a=bars(v1=1, v9=2))
    references = write(tmp_path / "r", a=bars(v1=1))
    evaluation = evaluate(predictions, references)
    assert structures_of(evaluation, "a") == ["1"]
    assert evaluation.notes == (
        "Not measured, as in no structure: 9 of the predictions.",
    )


def test_given_labels_name_and_choose_the_structures(two_folders):
    evaluation = evaluate(*two_folders, labels={"liver": 7})
    assert structures_of(evaluation, "b") == ["liver"]
    assert evaluation.mean("liver", "dice") == pytest.approx((4 / 6 + 1) / 2)


# ------------------------------------------------------------------ single files


def test_two_files_are_measured_whatever_their_names(two_folders):
    predictions, references = two_folders
    evaluation = evaluate(predictions / "a.nii.gz", references / "b.nii.gz")
    assert value(evaluation, "a", "7", "dice") == pytest.approx(4 / 6)


def test_folder_against_a_file_is_refused(two_folders):
    predictions, references = two_folders
    with pytest.raises(
        DatasetError, match=r"is a folder but references .* is one file"
    ):
        evaluate(predictions, references / "a.nii.gz")


# ------------------------------------------------------------------ regions


def test_region_is_the_union_of_its_labels(tmp_path):
    predictions = write(tmp_path / "p", a=bars(v1=4, v2=2))
    swapped = write(tmp_path / "r", a=bars(v2=4, v1=2))
    evaluation = evaluate(predictions, swapped, regions={"whole": (1, 2)})
    assert structures_of(evaluation, "a") == ["1", "2", "whole"]
    assert value(evaluation, "a", "1", "dice") == 0
    assert value(evaluation, "a", "whole", "dice") == 1
    assert value(evaluation, "a", "whole", "reference_voxels") == 6


def test_value_of_a_region_that_no_reference_has_is_noted(two_folders):
    evaluation = evaluate(*two_folders, regions={"whole": (3, 4, 7)})
    assert evaluation.notes == ("Region whole: value 4 is no label of the references.",)
    assert value(evaluation, "b", "whole", "reference_voxels") == 5


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"whole": ()}, r"region whole = \[\] must hold label values other than 0"),
        ({"whole": (0, 7)}, r"region whole = \[0, 7\] must hold label values"),
        ({"7": (3, 7)}, "region 7 has the name of a label"),
    ],
)
def test_region_without_sense_is_refused(two_folders, regions, message):
    with pytest.raises(SettingsError, match=message):
        evaluate(*two_folders, regions=regions)


# ------------------------------------------------------------------ data sets


def test_data_set_names_the_structures_and_may_hold_more_cases(tmp_path):
    labels = {"0": "background", "7": "liver", "3": "spleen"}
    dataset = write_dataset(
        tmp_path / "d", labels, a=bars(v7=4), b=bars(v7=4, v3=2), c=bars(v7=6)
    )
    predictions = write(tmp_path / "p", a=bars(v7=2), b=bars(v7=4, v3=1))
    evaluation = evaluate(predictions, dataset)
    assert structures_of(evaluation, "a") == ["spleen", "liver"]
    assert structures_of(evaluation, "c") == []
    assert evaluation.mean("liver", "dice") == pytest.approx((4 / 6 + 1) / 2)
    assert evaluation.mean("spleen", "dice") == pytest.approx(2 / 3)


def test_prediction_that_the_data_set_does_not_know_is_refused(tmp_path):
    dataset = write_dataset(tmp_path / "d", {"0": "background", "1": "x"}, a=bars(v1=4))
    predictions = write(tmp_path / "p", a=bars(v1=4), z=bars(v1=4))
    with pytest.raises(DatasetError, match="no labelled case for the predictions z;"):
        evaluate(predictions, dataset)


def test_structure_that_was_not_annotated_is_left_out_of_the_case(tmp_path):
    dataset = write_dataset(
        tmp_path / "d",
        {"0": "background", "1": "x", "2": "y"},
        annotated={"a": ["x"], "b": ["x", "y"]},
        a=bars(v1=4),
        b=bars(v1=4, v2=4),
    )
    predictions = write(tmp_path / "p", a=bars(v1=4, v2=6), b=bars(v1=4, v2=4))
    evaluation = evaluate(predictions, dataset, regions={"both": (1, 2)})
    assert structures_of(evaluation, "a") == ["x"]
    assert structures_of(evaluation, "b") == ["x", "y", "both"]
    # The region covers its labels, so the structures are no classes.
    assert evaluation.class_scores == {}
    only_b = evaluate(predictions, dataset).classes
    assert only_b["y"] == ClassCounts(reference=4, predicted=4, agreed=4)
    assert evaluation.mean("y", "dice") == 1
    assert evaluation.notes == ()


def test_a_fold_without_a_case_of_all_structures_takes_nothing_from_the_others(
    tmp_path,
):
    folds = {}
    for case, drawn in (("a", ["x"]), ("b", ["x", "y"])):
        folder = tmp_path / case
        dataset = write_dataset(
            folder / "d",
            {"0": "background", "1": "x", "2": "y"},
            annotated={case: drawn},
            **{case: bars(v1=4, v2=4)},
        )
        predictions = write(folder / "p", **{case: bars(v1=4, v2=4)})
        folds[case] = read_evaluation_of(evaluate(predictions, dataset))
    assert folds["a"].class_scores == {}
    assert joined(folds).classes == folds["b"].classes
    assert joined(folds).class_scores == folds["b"].class_scores


def test_region_that_was_drawn_whole_does_not_score_the_regions_inside_it(tmp_path):
    write(tmp_path, image=0 * bars(), only_whole=bars(v1=6), all=bars(v1=4, v2=2))
    (tmp_path / "table.toml").write_text(
        "[labels]\nedema = 1\nnecrosis = 2\nenhancing = 3\n"
        "[regions]\nwhole = [1, 2, 3]\ncore = [2, 3]\nenhancing = [3]\n"
        '[[cases]]\ncase = "a"\nchannels = ["image.nii.gz"]\n'
        'label_map = "only_whole.nii.gz"\nannotated_labels = ["whole"]\n'
        '[[cases]]\ncase = "b"\nchannels = ["image.nii.gz"]\n'
        'label_map = "all.nii.gz"\nannotated_labels = ["whole", "core"]\n'
    )
    predictions = write(tmp_path / "p", a=bars(v1=4, v2=2), b=bars(v1=4, v2=1, v3=1))
    evaluation = evaluate(predictions, tmp_path / "table.toml")
    assert structures_of(evaluation, "a") == ["whole"]
    assert structures_of(evaluation, "b") == ["whole", "core"]
    assert evaluation.notes == (
        "Structure enhancing was measured in no case: no reference has it drawn.",
    )


def test_prediction_of_an_excluded_case_is_left_out_and_noted(tmp_path):
    root = write_dataset(
        tmp_path / "d", {"0": "background", "1": "x"}, a=bars(v1=4), b=bars(v1=4)
    )
    description = json.loads((root / "dataset.json").read_text())
    description["training"][1]["exclude"] = "cut off"
    (root / "dataset.json").write_text(json.dumps(description))
    predictions = write(tmp_path / "p", a=bars(v1=4), b=bars(v1=2))
    evaluation = evaluate(predictions, root)
    assert evaluation.cases == ("a",)
    assert evaluation.notes == (
        "Case b is not measured, as the data set excludes it: cut off.",
    )
    (predictions / "a.nii.gz").unlink()
    with pytest.raises(DatasetError, match="excludes all predicted cases: b;"):
        evaluate(predictions, root)


def test_ignored_voxels_are_in_no_metric(tmp_path):
    labels = {"background": 0, "x": 1, "ignore": 9}
    reference = bars(v1=3)
    reference[3:, 0, 1] = 9
    dataset = write_dataset(tmp_path / "d", labels, a=reference)
    # Three right voxels, three ignored ones and a false one.
    prediction = bars(v1=6)
    prediction[0, 3, 3] = 1
    predictions = write(tmp_path / "p", a=prediction)
    evaluation = evaluate(predictions, dataset)
    assert structures_of(evaluation, "a") == ["x"]
    assert value(evaluation, "a", "x", "precision") == pytest.approx(3 / 4)
    assert value(evaluation, "a", "x", "prediction_voxels") == 4
    num_known = 6 * 4 * 4 - 3
    specificity = (num_known - 4) / (num_known - 3)
    background = evaluation.classes["background"]
    assert background == ClassCounts(num_known - 3, num_known - 4, num_known - 4)
    assert value(evaluation, "a", "x", "specificity") == pytest.approx(specificity)


def test_value_that_the_data_set_does_not_name_is_refused(tmp_path):
    dataset = write_dataset(
        tmp_path / "d", {"0": "background", "1": "x"}, a=bars(v1=4, v5=1)
    )
    predictions = write(tmp_path / "p", a=bars(v1=4))
    with pytest.raises(CaseError, match=r"case a: reference has the values \[5\]"):
        evaluate(predictions, dataset)


# ------------------------------------------------------------------ results


def test_every_case_is_reported_as_it_is_done(two_folders):
    calls = []
    evaluate(
        *two_folders,
        labels={"x": 7},
        on_progress=lambda done, total, case: calls.append((done, total, case)),
    )
    assert [(done, total) for done, total, _ in calls] == [(1, 2), (2, 2)]
    assert {case for _, _, case in calls} == {"a", "b"}


def test_result_file_follows_its_ending(two_folders, tmp_path):
    as_json, as_csv = tmp_path / "m.json", tmp_path / "m.csv"
    evaluation = evaluate(*two_folders, output=as_json)
    evaluate(*two_folders, output=as_csv)
    assert as_json.read_text() == evaluation.to_json()
    assert as_csv.read_text() == evaluation.to_csv()


def test_other_ending_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(SettingsError, match=r"m\.txt must end in \.json or \.csv"):
        evaluate(tmp_path, tmp_path, output=tmp_path / "m.txt")


# ------------------------------------------------------------------ command line


def run(*arguments):
    app = Typer()
    app.command()(evaluate_from_command_line)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_prints_means_definitions_and_worst_cases(two_folders, tmp_path):
    output = tmp_path / "metrics.json"
    result = run(*two_folders, "--regions", "whole=3,7", "-o", output)
    assert result.exit_code == 0
    assert "0.833" in result.output
    assert "2 TP / (2 TP + FP + FN)" in result.output
    assert "Lowest Dice" in result.output
    assert "metrics.json" in result.output
    assert json.loads(output.read_text())["summary"][-1]["structure"] == "whole"


def test_command_prints_only_json_when_asked(two_folders):
    result = run(*two_folders, "--json")
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert record["rows"][0]["case"] == "a"
    assert record == evaluate(*two_folders).as_record()


def test_command_refuses_a_region_that_is_no_list_of_values(two_folders):
    result = run(*two_folders, "--regions", "whole=one")
    assert result.exit_code == 2
    assert "whole=one" in result.output


def test_command_exits_1_with_the_reason(two_folders, tmp_path):
    result = run(tmp_path / "nowhere", two_folders[1])
    assert result.exit_code == 1
    assert "does not exist" in result.output
