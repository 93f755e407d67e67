"""A model file predicts what the run predicts, and tells nothing of any patient."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from made_up_models import scan, write_metrics, write_run
from typer.testing import CliRunner

import foveal
from foveal.case import Case
from foveal.cli.main import app
from foveal.ensembles.model_file import read_model_file
from foveal.errors import RunError
from foveal.geometry import Grid
from foveal.settings_files import parse_plan

TELLTALES = ("Mueller", "ward7", "SecretSite", "patient_", "1987")
"""Parts of every name of a case, patient, data set and folder below."""


@pytest.fixture
def runs(tmp_path):
    """Two runs whose cases, patients, data set and folders all have telling names."""
    dataset = tmp_path / "SecretSite_ward7"
    (dataset / "images").mkdir(parents=True)
    (dataset / "labels").mkdir()
    for n, name in enumerate(("Mueller_1987", "patient_b", "patient_c")):
        image, affine = scan(n)
        nib.save(nib.Nifti1Image(image, affine), dataset / "images" / f"{name}.nii.gz")
        labels = (image > 125).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, affine), dataset / "labels" / f"{name}.nii.gz")
    folder = tmp_path / "runs_of_SecretSite"
    for seed in (0, 1):
        run = write_run(
            folder / f"fold_{seed}_ward7",
            seed=seed,
            dataset=dataset,
            plan={"dataset_name": "SecretSite_ward7"},
        )
        write_metrics(run, "patient_c")
    return folder


def case():
    image, affine = scan(4)
    return Case("a", image[None], Grid(image.shape, affine))


def probabilities(model):
    return torch.cat(list(model.probabilities(case())), dim=1)


def test_model_file_predicts_as_the_runs_to_the_bit(runs, tmp_path):
    one = min(runs.iterdir())
    for number, source in enumerate((one, runs)):
        path = tmp_path / f"model_{number}"
        foveal.export(source, path)
        expected = foveal.load_model(source, device="cpu")
        loaded = foveal.load_model(path, device="cpu")
        assert len(loaded.models) == len(expected.models) == number + 1
        assert probabilities(loaded).equal(probabilities(expected))
        np.testing.assert_array_equal(loaded.predict(case()), expected.predict(case()))


def test_a_prediction_begun_with_the_run_goes_on_with_its_model_file(runs, tmp_path):
    foveal.export(runs, tmp_path / "model.foveal")
    (tmp_path / "scans").mkdir()
    image, affine = scan(4)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "scans" / "a.nii.gz")
    first = foveal.predict(runs, tmp_path / "scans", tmp_path / "out", threads=1)
    again = foveal.predict(
        tmp_path / "model.foveal",
        tmp_path / "scans",
        tmp_path / "out",
        resume=True,
        threads=1,
    )
    assert again == first


def test_model_file_names_no_case_patient_data_set_or_folder(runs, tmp_path):
    path = tmp_path / "model.foveal"
    foveal.export(runs, path)
    content = path.read_bytes()
    for word in (*TELLTALES, str(tmp_path), "metrics.json", "settings.toml"):
        assert word.encode() not in content, word
    # The same words are in what it was made from, so the search would find them.
    kept = b"".join(
        file.read_bytes()
        for file in runs.rglob("*")
        if file.suffix in (".toml", ".json")
    )
    assert all(word.encode() in kept for word in ("ward7", "SecretSite", "patient_"))


def test_card_has_counts_ranges_and_figures(runs, tmp_path):
    path = tmp_path / "model.foveal"
    card = foveal.export(runs, path)
    assert card["structures"] == {"ball": [1], "box": [2]}
    assert card["channels"] == ["MRI_0"]
    first, second = card["members"]
    assert first["seed"] == second["seed"] == 0
    assert (first["training_patients"], first["training_cases"]) == (2, 1)
    assert (first["validation_patients"], first["validation_cases"]) == (1, 1)
    ball = first["validation"]["ball"]
    assert {name: ball[name] for name in ("dice", "hd95_mm", "assd_mm")} == {
        "dice": {"mean": 0.75, "median": 0.75, "cases": 1},
        "hd95_mm": {"mean": 3.0, "median": 3.0, "cases": 1},
        "assd_mm": {"mean": 1.0, "median": 1.0, "cases": 1},
    }
    assert json.loads(json.dumps(card)) == foveal.model_card(path)
    members = read_model_file(path).members
    plan = parse_plan(members[0].plan, "test")
    assert plan.fingerprint is not None
    assert plan.dataset_name == ""


def test_card_is_made_without_the_data_set_and_before_validation(tmp_path):
    run = write_run(tmp_path / "run", dataset=tmp_path / "gone")
    (member,) = foveal.model_card(run)["members"]
    assert member["training_cases"] is None
    assert member["validation"] == {}
    result = CliRunner().invoke(app, ["card", str(run)])
    assert result.exit_code == 0
    assert "trained on 2 patient(s), validated on 1 patient(s)" in result.output


def test_card_is_printed_for_people_and_programs(runs, tmp_path):
    path = tmp_path / "model.foveal"
    result = CliRunner().invoke(app, ["export", str(runs), str(path)])
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert "Segments ball (1), box (2)" in text
    assert "The average of 2 networks" in text
    assert "0.750 (0.750)" in text
    assert f"foveal predict {path} INPUT OUTPUT" in text
    printed = CliRunner().invoke(app, ["card", str(path), "--json"])
    assert json.loads(printed.stdout) == foveal.model_card(path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"rows": 3}'])
def test_damaged_scores_are_named_with_the_remedy(content, runs, tmp_path):
    damaged = min(runs.iterdir()) / "validation" / "metrics.json"
    damaged.write_text(content)
    result = CliRunner().invoke(app, ["export", str(runs), str(tmp_path / "model")])
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert "is damaged or no metrics.json" in text
    assert "measure again with foveal evaluate" in text
    assert not (tmp_path / "model").exists()


def test_nothing_is_overwritten(runs, tmp_path):
    path = tmp_path / "model.foveal"
    path.write_bytes(b"mine")
    with pytest.raises(RunError, match="exists already"):
        foveal.export(runs, path)
    assert path.read_bytes() == b"mine"


def test_a_figure_that_no_case_has_is_null_in_the_card(runs, tmp_path):
    for run in runs.iterdir():
        path = run / "validation" / "metrics.json"
        record = json.loads(path.read_text())
        for row in record["rows"]:
            row["value"] = None
        path.write_text(json.dumps(record))
    foveal.export(runs, tmp_path / "model")
    card = foveal.model_card(tmp_path / "model")
    figures = card["members"][0]["validation"]["ball"]["dice"]
    assert figures == {"mean": None, "median": None, "cases": 0}


def test_what_is_no_model_is_named(runs, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    one = min(runs.iterdir())
    checkpoint = one / "checkpoints" / "best.safetensors"
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "empty", "is not a run and holds none"),
        (text, "no file of weights"),
        (checkpoint, "digest|checkpoint"),
    ):
        with pytest.raises(RunError, match=message):
            foveal.load_model(path)
    checkpoint.unlink()
    with pytest.raises(RunError, match="holds no checkpoint"):
        foveal.export(one, tmp_path / "model")


def test_models_of_different_tasks_are_not_averaged(tmp_path):
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", values=(1, 5))
    with pytest.raises(RunError, match=r"differ in label values.*\(1, 2\).*\(1, 5\)"):
        foveal.load_model([first, second])
    third = write_run(tmp_path / "c", channels=2)
    with pytest.raises(RunError, match="differ in channel names"):
        foveal.load_model([first, third])
    recipe = {"normalisation": "robust_zscore"}
    turned = [{"name": name, **recipe} for name in ("MRI_1", "MRI_0")]
    preprocessing = {"spacing_mm": [1.5, 1.5, 2.0], "channels": turned}
    other = write_run(tmp_path / "d", channels=2, plan={"preprocessing": preprocessing})
    with pytest.raises(
        RunError, match=r"differ in channel names: \('MRI_0', 'MRI_1'\)"
    ):
        foveal.load_model([third, other])
    labels = {"names": ["ball", "box"], "values": [1, 2], "separate_masks": True}
    masks = write_run(tmp_path / "e", plan={"labels": labels})
    with pytest.raises(RunError, match="differ in separate masks: False and True"):
        foveal.load_model([first, masks])


def test_weights_that_do_not_fit_the_plan_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    plan = run / "plan.toml"
    plan.write_text(plan.read_text().replace("features = [2, 4]", "features = [2, 8]"))
    with pytest.raises(RunError, match="not those of the plan's network"):
        foveal.load_model(run)
