import nibabel as nib
import numpy as np
import pytest
import torch
from made_up_models import write_metrics, write_run
from phantoms import write_ball_and_box_dataset

import foveal
from foveal.commands.validation_probabilities import ValidationCases
from foveal.config.postprocessing import PostprocessingConfig, TemperatureConfig
from foveal.ensembles.members import Ensemble
from foveal.errors import EvaluationError, SettingsError
from foveal.geometry import reorientation
from foveal.planning.splits import Fold, Splits, splits_to_toml
from foveal.settings_files import write_postprocessing


@pytest.fixture
def run(tmp_path):
    dataset = write_ball_and_box_dataset(tmp_path / "data", num_cases=3, values=(7, 9))
    run = write_run(tmp_path / "run", values=(7, 9), dataset=str(dataset))
    splits = Splits((Fold(("case_0",), ("case_1", "case_2"), ()),))
    (run / "splits.toml").write_text(splits_to_toml(splits))
    write_metrics(run, "case_1")
    return run


def test_cases_are_those_left_out_as_their_run_predicts_them(run):
    cases = ValidationCases(run, device="cpu")
    assert (len(cases), cases.num_channels) == (2, 1)
    assert cases.structures == {"ball": (1,), "box": (2,)}
    first, second = cases
    assert (first.files.name, second.files.name) == ("case_1", "case_2")
    read = foveal.read_case(first.files)
    expected = torch.cat(
        list(foveal.load_model(run, device="cpu").probabilities(read)), dim=1
    )
    np.testing.assert_allclose(first.probabilities, expected, atol=1e-3)
    np.testing.assert_allclose(first.probabilities.sum(axis=0), 1, atol=1e-6)
    turn = reorientation(read.grid, "RAS")
    np.testing.assert_array_equal(first.image, turn.apply(read.image))
    inside = np.zeros(10, np.uint8)
    inside[[7, 9]] = 1, 2
    np.testing.assert_array_equal(first.reference, inside[turn.apply(read.label_map)])
    assert first.annotated is None
    assert first.spacing_mm == pytest.approx((1.5, 1.5, 2.0))


def test_each_is_predicted_once_and_again_when_its_scan_changes(run, monkeypatch):
    predicted = []
    fused = Ensemble.probabilities

    def counted(self, case):
        predicted.append(case.name)
        return fused(self, case)

    monkeypatch.setattr(Ensemble, "probabilities", counted)
    cases = ValidationCases(run, device="cpu")
    (before, _), again = list(cases), list(cases)
    assert predicted == ["case_1", "case_2"]
    np.testing.assert_array_equal(again[0].probabilities, before.probabilities)
    path = before.files.channels[0].path
    scan = nib.load(path)
    brighter = nib.Nifti1Image(scan.get_fdata()[::-1] + 1, scan.affine)
    nib.save(brighter, path)
    after, _ = ValidationCases(run, device="cpu")
    assert predicted == ["case_1", "case_2", "case_1"]
    assert not np.allclose(after.probabilities, before.probabilities, atol=1e-3)


def test_other_weights_predict_anew(run, tmp_path):
    before, _ = ValidationCases(run, device="cpu")
    other = write_run(tmp_path / "other", seed=1, values=(7, 9))
    weights = "checkpoints/best.safetensors"
    (run / weights).write_bytes((other / weights).read_bytes())
    after, _ = ValidationCases(run, device="cpu")
    assert not np.allclose(after.probabilities, before.probabilities, atol=1e-3)


def test_a_run_that_left_nobody_out_is_refused(run):
    (run / "splits.toml").write_text(
        splits_to_toml(Splits((Fold(("case_0", "case_1", "case_2"), (), ()),)))
    )
    with pytest.raises(EvaluationError, match="has no validation case to choose by"):
        ValidationCases(run)


def test_what_was_chosen_with_other_weights_is_refused(run, tmp_path):
    file = run / "postprocessing.toml"
    chosen = PostprocessingConfig(
        made_of=ValidationCases(run).digests, temperature=TemperatureConfig(value=3)
    )
    write_postprocessing(file, chosen)
    assert foveal.load_model(run).steps.temperature == 3
    foveal.export(run, tmp_path / "good.foveal")
    assert foveal.load_model(tmp_path / "good.foveal").steps.temperature == 3
    other = write_run(tmp_path / "other", seed=1, values=(7, 9))
    weights = "checkpoints/best.safetensors"
    (run / weights).write_bytes((other / weights).read_bytes())
    words = r"run was chosen with other weights .* calibrate, tune-crf or"
    with pytest.raises(SettingsError, match=words):
        foveal.load_model(run)
    with pytest.raises(SettingsError, match=words):
        foveal.export(run, tmp_path / "bad.foveal")
    scans, out = tmp_path / "data" / "imagesTr", tmp_path / "out"
    with pytest.raises(SettingsError, match=words):
        foveal.predict(run, scans, out, threads=1)
    assert not out.exists()
    assert foveal.load_model(run, postprocessing=file).steps.temperature == 3
    with pytest.raises(SettingsError, match=r"postprocessing.toml has no table .crf."):
        foveal.predict(run, scans, out, crf=True, postprocessing=file, threads=1)
